"""Parity and `--locate` on TensorRT-RTX: engines as `build-engine` makes them by default, on stand-ins for the GPU."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from segrefine.assets import demo_bundle, demo_checkpoint, demo_samples
from segrefine.bundle import Bundle
from segrefine.cli.samples import load_samples
from segrefine.engines import BuildOptions, build_engine, load_engine
from segrefine.engines.tensorrt import backend
from segrefine.export.comparison import ParityScene, trial_sizes
from segrefine.export.locate import _float_tensors, _mark
from segrefine.export.parity import check_parity, locate_divergences
from segrefine.runtime.pipeline import Refiner
from tests.engines.cuda_stand_in import Cuda
from tests.engines.tensorrt.runtime_stand_in import one_gpu, write_engine
from tests.parity.test_locate import with_changed_weight

RTX = "tensorrt-rtx"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    monkeypatch.setattr(backend, "build_tensorrt", write_engine)
    with one_gpu() as cuda:
        yield cuda


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(demo_bundle(), tmp_path / "bundle"))


def test_engines_of_the_default_profile(gpu: Cuda, bundle: Bundle) -> None:
    build_engine(bundle, backend=RTX)
    sample = next(iter(load_samples(demo_samples()).values()))
    scenes = [ParityScene(image=sample.image, coarse=sample.coarse, label=sample.label)]
    rows = list(check_parity(bundle.path, demo_checkpoint(), scenes, backend=RTX))
    assert not [row for row in rows if not row.ok]
    assert [row.step for row in rows if row.component == "unet"] == ["batch 1, latents 16×16", "batch 3, latents 16×16"]
    assert {"one-step", "loop"} <= {row.component for row in rows}


@pytest.mark.parametrize(
    ("component", "options", "expected"),
    [
        ("unet", {}, [(1, 16, 16, 77), (3, 16, 16, 77)]),
        ("unet", {"min_shapes": {"width": 4}}, [(1, 16, 16, 77), (3, 16, 8, 77)]),
        ("unet", {"min_shapes": {"batch": 2}, "max_shapes": {"batch": 2}}, [(2, 16, 16, 77)]),
        ("unet", {"min_shapes": {"height": 24, "width": 32}}, [(1, 24, 32, 77), (3, 24, 32, 77)]),
        ("vae_encoder", {"min_shapes": {"height": 24}, "max_shapes": {"width": 8}}, [(1, 24, 8, 77), (3, 24, 8, 77)]),
        ("alignment", {"max_shapes": {"batch": 1, "width": 8}}, [(1, 16, 8, 77)]),
        ("text_encoder", {"max_shapes": {"tokens": 40}}, [(1, 16, 16, 40), (3, 16, 8, 40)]),
    ],
)  # fmt: skip
def test_sizes_are_those_that_the_engine_serves(
    gpu: Cuda, bundle: Bundle, component: str, options: dict[str, dict[str, int]], expected: list[tuple[int, ...]]
) -> None:
    build_engine(bundle, backend=RTX, components=[component], options=BuildOptions(**options))  # type: ignore[arg-type]
    with load_engine(bundle, component, RTX) as engine:
        found = trial_sizes(bundle.manifest, engine)
    assert [(each["batch"], each["height"], each["width"], each["tokens"]) for each in found] == expected
    assert all(each["pixels"] == each["height"] * each["width"] for each in found)
    assert all((each["image_height"], each["image_width"]) == (4 * each["height"], 4 * each["width"]) for each in found)


def test_loop_has_a_size_that_the_denoiser_serves(gpu: Cuda, bundle: Bundle) -> None:
    build_engine(bundle, backend=RTX, options=BuildOptions(min_shapes={"height": 24, "width": 24}))
    sample = next(iter(load_samples(demo_samples()).values()))
    scenes = [ParityScene(image=sample.image, coarse=sample.coarse, label=sample.label)]
    assert not [row for row in check_parity(bundle.path, demo_checkpoint(), scenes, backend=RTX) if not row.ok]


@pytest.mark.parametrize("batch", [1, 2])
def test_pipeline_on_engines_of_one_size_of_everything(gpu: Cuda, bundle: Bundle, batch: int) -> None:
    given = {"batch": batch}
    build_engine(bundle, backend=RTX, options=BuildOptions(min_shapes=given, max_shapes=given))
    sample = next(iter(load_samples(demo_samples()).values()))
    with Refiner.from_bundle(bundle.path) as on_cpu, Refiner.from_bundle(bundle.path, backend=RTX) as on_gpu:
        ours, theirs = (refine(sample.image, sample.coarse, sample.label, guard=False) for refine in (on_gpu, on_cpu))
    np.testing.assert_allclose(ours.probability, theirs.probability, atol=1e-5)


@pytest.mark.usefixtures("fresh_export_once")
def test_changed_weight_is_found_in_an_engine_of_the_same_profile(gpu: Cuda, tmp_path: Path) -> None:
    weight = "unet.mid_block.resnets.0.conv1.weight"
    bundle = with_changed_weight(Bundle.open(demo_bundle()), "unet/model.onnx", weight, tmp_path / "bundle")
    options = BuildOptions(min_shapes={"width": 8}, max_shapes={"batch": 2, "width": 8}, workspace=64)
    build_engine(bundle, backend=RTX, components=["unet"], options=options)
    [found] = locate_divergences(bundle, demo_checkpoint(), {"unet": None}, backend=RTX)
    assert found is not None
    assert (found.operator, weight in found.inputs, found.index[1]) == ("Conv", True, 3)


def test_the_real_builder_builds_a_graph_with_all_outputs(bundle: Bundle, tmp_path: Path) -> None:
    marked = _mark(bundle, "unet", _float_tensors(bundle, "unet"), tmp_path / "marked")
    assert len(marked.manifest.components["unet"].outputs) > 100
    [built] = build_engine(marked, backend=RTX, options=BuildOptions(compute_capabilities=("8.9",)))
    assert built.path.stat().st_size > 1_000_000
