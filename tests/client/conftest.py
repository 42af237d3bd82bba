from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.serve.process import Service, running


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("client"), "demo", "demo-gs") as started:
        yield started
