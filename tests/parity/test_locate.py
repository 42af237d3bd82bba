"""`parity --locate`: a weight that was changed inside a bundle is found at the node that takes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from segrefine.assets import demo_bundle, demo_checkpoint, demo_samples
from segrefine.bundle import MANIFEST, Bundle, BundleWriter
from segrefine.cli import main, samples
from segrefine.cli.samples import load_samples
from segrefine.engines import load_engine
from segrefine.export import export_bundle, locate
from segrefine.export.comparison import Watched, named_inputs
from segrefine.export.graph import example_inputs
from segrefine.export.modules import GRAPHS, GraphSource
from segrefine.export.parity import locate_divergences
from segrefine.reference.attention import attend_naive
from segrefine.reference.checkpoint import load_checkpoint
from tests.backends import CPU_BACKENDS
from tests.tiny_bundle import CHANNELS, write_bundle

pytestmark = pytest.mark.usefixtures("fresh_export_once")


def with_changed_weight(bundle: Bundle, graph: str, weight: str, target: Path, factor: float = 1.5) -> Bundle:
    """A copy of the bundle, its records in order, in which the fourth channel of a weight is multiplied."""
    with BundleWriter(target) as writer:
        shutil.copytree(bundle.path, writer.directory, dirs_exist_ok=True)
        (writer.directory / MANIFEST).unlink()
        path = writer.directory / graph
        model = onnx.load(path)
        (tensor,) = (each for each in model.graph.initializer if each.name.removesuffix(".half") == weight)
        values = numpy_helper.to_array(tensor).copy()
        values[3] *= factor
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, path)
        return writer.finish(bundle.manifest)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_changed_weight_is_found(backend: str, tmp_path: Path) -> None:
    weight = "unet.mid_block.resnets.0.conv1.weight"
    bundle = with_changed_weight(Bundle.open(demo_bundle()), "unet/model.onnx", weight, tmp_path / "bundle")
    [found] = locate_divergences(bundle, demo_checkpoint(), {"unet": None}, backend=backend)
    assert found is not None
    assert (found.operator, weight in found.inputs, found.index[1]) == ("Conv", True, 3)
    assert found.got / found.expected == pytest.approx(1.5, rel=0.02)  # but for the bias, that is not changed
    assert found.agreed > 100


@pytest.mark.slow  # an export
def test_a_changed_weight_is_found_by_a_fresh_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "export_bundle", export_bundle)
    test_changed_weight_is_found("onnxruntime", tmp_path)


@pytest.fixture
def one_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the shipped scenes the command compares one."""
    name, sample = next(iter(load_samples(demo_samples()).items()))
    monkeypatch.setattr(samples, "load_samples", lambda folder: {name: sample})


@pytest.mark.slow  # two exports
@pytest.mark.usefixtures("one_scene")
@pytest.mark.parametrize("tiny_label_checkpoint", ["vae"], indirect=True)
def test_command_tells_both_values(tiny_label_bundle: Path, tiny_label_checkpoint: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_label_bundle)
    graph = bundle.manifest.graphs["label_denoiser"]
    names = [
        each.name for each in onnx.load(bundle.graph("label_denoiser"), load_external_data=False).graph.initializer
    ]
    [weight] = [name.removesuffix(".half") for name in names if "conv_in.weight" in name]
    broken = with_changed_weight(bundle, graph, weight, tmp_path / "bundle")
    result = parity(broken, tiny_label_checkpoint, "--json")
    assert result.exit_code == 1
    [found] = json.loads(result.stdout)["divergences"]
    assert (found["component"], found["operator"], weight in found["inputs"]) == ("label_denoiser", "Conv", True)
    assert np.isfinite(found["got"]) and found["got"] != found["expected"]


def parity(bundle: Bundle, reference: Path | str, *words: str) -> Result:
    return CliRunner().invoke(main, ["parity", str(bundle.path), "--reference", str(reference), "--locate", *words])


def test_value_that_is_not_finite_is_found(tmp_path: Path) -> None:
    weight = "unet.mid_block.resnets.0.conv1.weight"
    bundle = with_changed_weight(Bundle.open(demo_bundle()), "unet/model.onnx", weight, tmp_path / "bundle", np.inf)
    result = parity(bundle, "demo", "--json")
    assert result.exit_code == 1 and "comparisons are past tolerance" in result.stderr
    answer = json.loads(result.stdout, parse_constant=pytest.fail)  # JSON has no Infinity
    rows = {(row["component"], row["step"].partition(":")[0]): row for row in answer["rows"]}
    assert rows["unet", "loop"]["error"] is None and not rows["unet", "one-step"]["ok"]
    assert "unet: it gave a value that is not finite" in rows["unet", "loop"]["step"]
    assert rows["vae_encoder", "batch 1, latents 16×16"]["ok"]
    [found] = answer["divergences"]
    assert (found["component"], found["operator"], weight in found["inputs"]) == ("unet", "Conv", True)
    assert found["got"] is None and np.isfinite(found["expected"]) and found["index"][1] == 3


def test_inputs_that_are_known_to_overflow_are_tried_first(tmp_path: Path) -> None:
    weight = "unet.conv_in.weight"
    bundle = with_changed_weight(Bundle.open(demo_bundle()), "unet/model.onnx", weight, tmp_path / "bundle", 1000)
    sizes = {"batch": 1, "height": 16, "width": 16, "pixels": 256, "tokens": 77}
    checkpoint, taps = load_checkpoint(demo_checkpoint()), bundle.manifest.feature_taps
    module = GRAPHS["unet"](GraphSource(checkpoint=checkpoint, attend=attend_naive, taps=taps))
    feeds = named_inputs(module, example_inputs(module, sizes))
    feeds["sample"] *= 1e36
    [found] = locate_divergences(bundle, demo_checkpoint(), {"unet": feeds})
    assert found is not None and not np.isfinite(found.got) and found.error == np.inf
    assert (found.operator, weight in found.inputs, found.index[1]) == ("Conv", True, 3)


def test_the_sample_that_overflowed_is_kept(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    sample = np.ones((3, CHANNELS), np.float32)
    with Watched(load_engine(bundle, "chain")) as engine:
        engine({"sample": sample})
        assert engine.overflowed is None
        sample[1] = 3e38
        engine({"sample": sample})
        engine({"sample": 3e38 * np.ones_like(sample)})
    assert engine.overflowed is not None
    np.testing.assert_array_equal(engine.overflowed["sample"], sample[1:2])


@pytest.mark.slow  # three exports
def test_nothing_is_found_where_nothing_is_wrong(half_demo_bundle: Callable[[str], Path]) -> None:
    whole, half = Bundle.open(demo_bundle()), Bundle.open(half_demo_bundle("demo"))
    assert list(locate_divergences(whole, demo_checkpoint(), dict.fromkeys(["text_encoder", "alignment"]))) == [
        None,
        None,
    ]
    assert list(locate_divergences(half, demo_checkpoint(), {"vae_encoder": None})) == [None]
