"""`parity --locate`: a weight that was changed inside a bundle is found at the node that takes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from segrefine.assets import demo_bundle, demo_checkpoint
from segrefine.bundle import MANIFEST, Bundle, BundleWriter
from segrefine.cli import main
from segrefine.engines import CPU_BACKENDS
from segrefine.export.parity import locate_divergences


def with_changed_weight(bundle: Bundle, graph: str, weight: str, target: Path) -> Bundle:
    """A copy of the bundle, its records in order, in which the fourth channel of a weight is half as large again."""
    with BundleWriter(target) as writer:
        shutil.copytree(bundle.path, writer.directory, dirs_exist_ok=True)
        (writer.directory / MANIFEST).unlink()
        path = writer.directory / graph
        model = onnx.load(path)
        (tensor,) = (each for each in model.graph.initializer if each.name.removesuffix(".half") == weight)
        values = numpy_helper.to_array(tensor).copy()
        values[3] *= 1.5
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, path)
        return writer.finish(bundle.manifest)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_changed_weight_is_found(backend: str, tmp_path: Path) -> None:
    weight = "unet.mid_block.resnets.0.conv1.weight"
    bundle = with_changed_weight(Bundle.open(demo_bundle()), "unet/model.onnx", weight, tmp_path / "bundle")
    [found] = locate_divergences(bundle, demo_checkpoint(), ["unet"], backend=backend)
    assert found is not None
    assert (found.operator, weight in found.inputs, found.index[1]) == ("Conv", True, 3)
    assert found.got / found.expected == pytest.approx(1.5, rel=0.02)  # but for the bias, that is not changed
    assert found.agreed > 100


def test_nothing_is_found_where_nothing_is_wrong(half_demo_bundles: dict[str, Path]) -> None:
    whole, half = Bundle.open(demo_bundle()), Bundle.open(half_demo_bundles["demo"])
    assert list(locate_divergences(whole, demo_checkpoint(), ["text_encoder", "alignment"])) == [None, None]
    assert list(locate_divergences(half, demo_checkpoint(), ["vae_encoder"])) == [None]


def test_command_tells_both_values(tiny_label_bundle: Path, tiny_label_checkpoint: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_label_bundle)
    graph = bundle.manifest.graphs["label_denoiser"]
    names = [
        each.name for each in onnx.load(bundle.graph("label_denoiser"), load_external_data=False).graph.initializer
    ]
    [weight] = [name.removesuffix(".half") for name in names if "conv_in.weight" in name]
    broken = with_changed_weight(bundle, graph, weight, tmp_path / "bundle")
    result = CliRunner().invoke(
        main, ["parity", str(broken.path), "--reference", str(tiny_label_checkpoint), "--locate", "--json"]
    )
    assert result.exit_code == 1
    [found] = json.loads(result.stdout)["divergences"]
    assert (found["component"], found["operator"], weight in found["inputs"]) == ("label_denoiser", "Conv", True)
    assert np.isfinite(found["got"]) and found["got"] != found["expected"]
