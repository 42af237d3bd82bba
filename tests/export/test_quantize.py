"""Eight-bit bundles: their masks, their files, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from segrefine.assets import demo_bundle, demo_gs_bundle, demo_samples, photo_gs_bundle, photo_samples
from segrefine.bundle import MANIFEST, Bundle
from segrefine.cli import main
from segrefine.cli.export import _read_scenes
from segrefine.cli.samples import load_samples
from segrefine.engines.tensorrt.signed import signed_graph
from segrefine.errors import EngineError, ExportError, OutputError, SettingsError
from segrefine.export.comparison import ParityScene
from segrefine.export.parity import check_parity
from segrefine.export.quantize import bundles, quantize_bundle, read_scenes
from segrefine.export.quantize.graphs import prepare_graph
from segrefine.export.storage import WeightFile
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmenter import Segmenter

DENOISER = "label_denoiser/model.onnx"


def scenes_of(folder: Path) -> list[ParityScene]:
    return [ParityScene(image=s.image, coarse=s.coarse, label=s.label) for s in load_samples(folder).values()]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    quantize_bundle(photo_gs_bundle(), folder, scenes_of(photo_samples()))
    return folder


def feeds_of(graph: Path) -> dict[str, np.ndarray]:
    rng, feeds = np.random.default_rng(0), {}
    sizes = {"batch": 1, "height": 16, "width": 16, "tokens": 77}
    for tensor in onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).get_inputs():
        shape = [sizes[size] if isinstance(size, str) else size for size in tensor.shape]
        whole = "int64" in tensor.type
        feeds[tensor.name] = np.full(shape, 300) if whole else rng.standard_normal(shape, np.float32)
    return feeds


def outputs_of(graph: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_masks_stay_what_they_were(quantized, backend):
    scenes = scenes_of(photo_samples())
    with (
        Segmenter.from_bundle(photo_gs_bundle(), backend=backend, threads=1) as float32,
        Segmenter.from_bundle(quantized, backend=backend, threads=1) as int8,
    ):
        pairs = [[each(s.image, [f"the {s.label}"]).segments[0] for each in (float32, int8)] for s in scenes]
    assert np.mean([iou(ours.mask, theirs.mask) for theirs, ours in pairs]) > 0.98
    assert any(not np.array_equal(ours.probability, theirs.probability) for theirs, ours in pairs)


def test_the_manifest_says_how_masks_compare_and_the_file_is_small(quantized):
    told = Bundle.open(quantized).manifest.quantized["label_denoiser"]
    assert told["scheme"] == "int8" and told["masks"] == 4 and 0.99 <= told["iou"] <= 1 and told["time"] > 0
    weights = sum(tensor.size for tensor in weights_of(photo_gs_bundle()))
    assert (quantized / f"{DENOISER}_data").stat().st_size < 1.3 * weights  # little more than a byte each
    result = CliRunner().invoke(main, ["inspect", str(quantized)])
    assert result.exit_code == 0 and "label_denoiser in int8: 4 masks have a mean IoU of 0.99" in result.output


def weights_of(bundle: Path) -> list[np.ndarray]:
    model = onnx.load(bundle / DENOISER)
    return [onnx.numpy_helper.to_array(each) for each in model.graph.initializer]


def test_the_prepared_graph_computes_the_same(tmp_path):
    source = photo_gs_bundle() / DENOISER
    graph = prepare_graph(source, WeightFile(tmp_path / "float.onnx_data"))
    feeds = feeds_of(source)
    np.testing.assert_allclose(outputs_of(graph.path, feeds), outputs_of(source, feeds), atol=1e-5)
    assert len(graph.nodes) > 50


def test_tensorrt_reads_the_same_numbers(quantized):
    """The signed copy has no unsigned integers and no biases in int32, and computes the same."""
    source = quantized / DENOISER
    feeds = feeds_of(source)
    with signed_graph(source) as signed:
        types = {tensor.data_type for tensor in onnx.load(signed).graph.initializer}
        assert not types & {onnx.TensorProto.UINT8, onnx.TensorProto.INT32} and onnx.TensorProto.INT8 in types
        found = outputs_of(signed, feeds)
    np.testing.assert_allclose(found, outputs_of(source, feeds), atol=1e-6)
    assert not signed.exists()


def test_another_zero_point_is_not_read_as_signed(quantized, tmp_path):
    model = onnx.load(quantized / DENOISER)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.UINT8:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(127, np.uint8), tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(EngineError, match="the zero point 128, got 127"), signed_graph(tmp_path / "model.onnx"):
        pass


def test_int8_is_not_compared_with_pytorch_or_quantized_again(quantized, tmp_path):
    with pytest.raises(SettingsError, match="expected a bundle in floats, got one in int8"):
        list(check_parity(quantized, photo_gs_bundle(), []))
    with pytest.raises(ExportError, match="quantized already"):
        quantize_bundle(quantized, tmp_path / "again", scenes_of(photo_samples()))
    half = Path(shutil.copytree(photo_gs_bundle(), tmp_path / "half"))
    manifest = json.loads((half / MANIFEST).read_text())
    (half / MANIFEST).write_text(json.dumps({**manifest, "dtype": "fp16"}))
    with pytest.raises(ExportError, match="expected a bundle in fp32, got fp16"):
        quantize_bundle(half, tmp_path / "again", scenes_of(photo_samples()))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_images_are_refused(count, tmp_path):
    scenes = scenes_of(photo_samples())[:count]
    with pytest.raises(ExportError, match=f"at least 4 different images, got {count}"):
        quantize_bundle(photo_gs_bundle(), tmp_path / "b", scenes)
    same = [replace(scene, image=scenes[0].image) for scene in scenes * 8]
    if same:
        with pytest.raises(ExportError, match="got 1$"):
            quantize_bundle(photo_gs_bundle(), tmp_path / "b", same)


def test_a_model_whose_masks_change_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "LEAST_IOU", 1.01)
    monkeypatch.setattr(bundles, "_SHARES", (0.0, 0.5))
    with pytest.raises(ExportError, match=r"mean IoU .* of 1.01 or more, got .*") as caught:
        quantize_bundle(photo_gs_bundle(), tmp_path / "b", scenes_of(photo_samples()))
    assert "lose most: node_" in str(caught.value.hint) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("most_time", "most_loss", "encoders", "said"),
    [
        (1e9, 1, {"vae_encoder", "text_encoder"}, None),
        (0, 1, set(), "stays in float32: int8 takes"),
        (1e9, -1, set(), "stays in float32: the masks' mean IoU changes from"),
    ],
)
def test_encoders_are_quantized_where_that_pays_and_costs_nothing(
    most_time, most_loss, encoders, said, tmp_path, monkeypatch
):
    monkeypatch.setattr(bundles, "LEAST_IOU", 0.8)
    monkeypatch.setattr(bundles, "_MOST_TIME", most_time)
    monkeypatch.setattr(bundles, "_MOST_LOSS", most_loss)
    lines: list[str] = []
    scenes = scenes_of(demo_samples())[:4]
    quantized = quantize_bundle(demo_gs_bundle(), tmp_path / "b", scenes, progress=lines.append).manifest.quantized
    assert {*quantized} == {"label_denoiser"} | encoders
    assert (
        [line for line in lines if "stays" in line and said in line] if said else not any("stays" in x for x in lines)
    )
    for name in ("vae_encoder", "text_encoder"):
        types = {each.data_type for each in onnx.load(tmp_path / f"b/{name}/model.onnx").graph.initializer}
        assert (onnx.TensorProto.INT8 in types) == (name in encoders)
    with Segmenter.from_bundle(tmp_path / "b", threads=1) as segmenter:
        assert 0 <= segmenter(scenes[0].image, [scenes[0].label]).segments[0].probability.mean() <= 1


def test_a_place_that_is_taken_is_told_first(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/file").touch()
    with pytest.raises(OutputError, match="exists and is not a bundle"):
        quantize_bundle(photo_gs_bundle(), tmp_path / "b", [])


def test_scenes_are_read_from_a_data_set():
    found = read_scenes(demo_samples())
    assert len(found) == 12 and found[0].label == load_samples(demo_samples())["01-banana-dilate"].label


@pytest.mark.parametrize(("model", "count"), [("photo", 7), ("photo-gs", 7), ("demo", 12), ("path/to/sd", 20)])
def test_a_small_model_is_judged_by_samples_of_labels_that_it_knows(model, count):
    assert len(_read_scenes("demo", model)) == count


@pytest.mark.parametrize("option", [("--quantize", "int8"), ("--calibrate", "demo")])
def test_both_options_are_needed(option, tmp_path):
    result = CliRunner().invoke(main, ["export", "photo-gs", str(tmp_path / "b"), *option])
    assert result.exit_code == 2 and "give --quantize and --calibrate together" in result.output


@pytest.mark.slow
def test_on_the_command_line(tmp_path):
    command = ["export", "photo-gs", str(tmp_path / "b"), "--quantize", "int8", "--calibrate", str(photo_samples())]
    result = CliRunner().invoke(main, [*command, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["quantized"]["label_denoiser"]["iou"] >= 0.99 and [*tmp_path.iterdir()] == [tmp_path / "b"]
    assert Bundle.open(tmp_path / "b").manifest.settings == Bundle.open(photo_gs_bundle()).manifest.settings


@pytest.mark.slow
def test_a_model_that_refines(tmp_path):
    scenes = scenes_of(demo_samples())
    bundle = quantize_bundle(demo_bundle(), tmp_path / "b", scenes)
    assert set(bundle.manifest.quantized) == {"unet", "unet_features", "unet_attention"}
    size, before = ((each / "unet/model.onnx_data").stat().st_size for each in (bundle.path, demo_bundle()))
    assert size < 0.6 * before  # whose weights are in half precision
    with Refiner.from_bundle(demo_bundle(), threads=1) as float32, Refiner.from_bundle(bundle.path, threads=1) as int8:
        masks = [[each(s.image, s.coarse, s.label, guard=False).mask for each in (float32, int8)] for s in scenes]
    assert np.mean([iou(ours, theirs) for theirs, ours in masks]) > 0.99


@pytest.mark.slow
def test_demo_gs_too(tmp_path):
    bundle = quantize_bundle(demo_gs_bundle(), tmp_path / "b", scenes_of(demo_samples()))
    assert bundle.manifest.quantized["label_denoiser"]["iou"] >= 0.99
