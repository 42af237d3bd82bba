from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segrefine import Bundle, Refiner, Segmenter
from segrefine.assets import SHIPPED_BUNDLES, demo_bundle, demo_gs_bundle, demo_samples
from segrefine.cli.samples import Sample, load_samples
from segrefine.triton.config import Serving
from segrefine.triton.repository import write_repository


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped models, and `demo` once more for phrases, as models of Triton."""
    folder = tmp_path_factory.mktemp("repository")
    for name, path in SHIPPED_BUNDLES.items():
        write_repository(Bundle.open(path), folder, Serving(name=name, threads=1))
    write_repository(Bundle.open(demo_bundle()), folder, Serving(name="demo-words", threads=1, zero_shot=True))
    return folder


@pytest.fixture(scope="session")
def scenes() -> list[Sample]:
    return list(load_samples(demo_samples()).values())


@pytest.fixture(scope="module")
def refiner() -> Iterator[Refiner]:
    with Refiner.from_bundle(demo_bundle(), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def segmenter() -> Iterator[Segmenter]:
    with Segmenter.from_bundle(demo_gs_bundle(), threads=1) as opened:
        yield opened


def as_texts(rows: Sequence[Sequence[str | bytes]]) -> NDArray[np.object_]:
    """Texts as Triton hands them over."""
    return np.array([[each.encode() if isinstance(each, str) else each for each in row] for row in rows], object)
