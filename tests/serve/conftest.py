from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from benchmarks.serve.process import Service, running
from segrefine.assets import demo_samples


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Both demo models, served."""
    with running(tmp_path_factory.mktemp("service"), "demo", "demo-gs") as started:
        yield started


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    with service.http() as client:
        yield client


@pytest.fixture(scope="session")
def scene() -> tuple[bytes, bytes, str]:
    """Image, coarse mask and label of one shipped scene, as files."""
    name = "02-car-erode.png"
    folder = demo_samples()
    return (folder / "images" / name).read_bytes(), (folder / "masks" / name).read_bytes(), "car"


@pytest.fixture(scope="session")
def form(scene: tuple[bytes, bytes, str]) -> Callable[..., dict[str, Any]]:
    """Keywords for httpx of a request to refine; with fields and files changed, or left out where None."""

    def make(**changes: Any) -> dict[str, Any]:
        image, mask, label = scene
        values = {"image": image, "mask": mask, "label": label, **changes}
        given = {name: value for name, value in values.items() if value is not None}
        files = {name: ("x.png", value) for name, value in given.items() if isinstance(value, bytes)}
        return {"files": files, "data": {name: value for name, value in given.items() if name not in files}}

    return make
