"""What tests of engines start from: a bundle of two small graphs, and a GPU that is a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from segrefine.bundle import Bundle
from tests.tiny_bundle import write_bundle

if TYPE_CHECKING:
    from tests.engines.cuda_stand_in import Cuda


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def gpu() -> Iterator[Cuda]:
    """The stand-in's device; engines find it and the stand-ins of TensorRT."""
    from tests.engines.tensorrt.runtime_stand_in import one_gpu  # here: other tests of engines need no CUDA

    with one_gpu() as cuda:
        yield cuda
