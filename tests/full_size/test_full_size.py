"""Models of full size, random weights: exported, and every component on ONNX Runtime beside PyTorch's naive attention.

Takes an hour and 40 GB of disk in the benchmarks' cache and in pytest's folder: `make test-full`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.full_size import FOLDER, write_full_size
from segrefine.bundle import Bundle
from segrefine.engines import load_engine
from segrefine.export import export_bundle
from segrefine.export.comparison import named_inputs, relative_error
from segrefine.export.graph import example_inputs
from segrefine.export.modules import GRAPHS, GraphSource
from segrefine.reference.attention import attend_naive
from segrefine.reference.checkpoint import load_checkpoint

pytestmark = pytest.mark.full_size
SIZES = {
    "batch": 1,
    "tokens": 77,
    "height": 24,
    "width": 32,
    "pixels": 24 * 32,
    "image_height": 192,
    "image_width": 256,
}
STORED = {"sd15": torch.float32, "sd21": torch.float32, "sdxl": torch.float16}


@pytest.fixture(scope="module", params=STORED)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Bundle]]:
    """A checkpoint and its bundle, whose export held every graph against PyTorch at three sizes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    checkpoint = write_full_size(request.param, FOLDER, STORED[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    yield checkpoint, export_bundle(checkpoint, folder / "bundle")
    shutil.rmtree(folder)


def test_every_component_is_torch_s_masked_and_unmasked(exported: tuple[Path, Bundle]) -> None:
    checkpoint, bundle = exported
    for name in bundle.manifest.graphs:
        opened = load_checkpoint(checkpoint)
        source = GraphSource(checkpoint=opened, attend=attend_naive, taps=bundle.manifest.feature_taps)
        module = GRAPHS[name](source)
        feeds = named_inputs(module, example_inputs(module, SIZES))
        trials = [feeds, feeds | {"strength": np.zeros((1, 2), np.float32)}] if "strength" in feeds else [feeds]
        with torch.no_grad():
            wanted = [module(*(torch.from_numpy(each) for each in trial.values())) for trial in trials]
        outputs = [tensor.name for tensor in module.spec.outputs]
        del module, source, opened
        with load_engine(bundle, name, "onnxruntime") as engine:
            for trial, expected in zip(trials, wanted, strict=True):
                found = engine(trial)
                for output, each in zip(outputs, expected if isinstance(expected, tuple) else (expected,), strict=True):
                    assert relative_error(found[output], each.numpy()) <= 1e-4, (name, output)
