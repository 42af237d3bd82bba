"""OpenVINO as a backend: right results at every shape, both precisions, built or not; wrong feeds, graphs, devices."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest

from segrefine.assets import demo_bundle, demo_gs_bundle, demo_samples
from segrefine.bundle import Bundle
from segrefine.cli.samples import load_samples
from segrefine.engines import build_engine, load_engine, recipe
from segrefine.engines.engine import even_parts
from segrefine.engines.openvino.attention import spread_attention
from segrefine.engines.openvino.engine import OpenVinoEngine
from segrefine.errors import BackendError, EngineError, MissingDependencyError, SettingsError, ShapeError
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmenter import Segmenter
from tests.backends import CPU_BACKENDS
from tests.tiny_bundle import CHANNELS, LINEAR, chain, linear, linear_graph

SAMPLE = np.random.default_rng(1).normal(size=(3, CHANNELS)).astype(np.float32)
TIMESTEP = np.arange(3)
FREE_AXES = {
    "label_denoiser": {
        "sample": [16, 16, 16],
        "image_latents": [16, 16, 16],
        "timestep": [],
        "encoder_hidden_states": [77, 128],
    },
    "text_encoder": {"input_ids": [77]},
}
HAS_BFLOAT16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(linear_graph(), path)
    return path


@pytest.mark.parametrize(("threads", "large"), [(None, False), (1, False), (3, False), (2, True), (9, True)])
def test_engine_computes_the_graph_at_every_shape(graph: Path, threads: int | None, large: bool) -> None:
    with OpenVinoEngine(graph, LINEAR, threads, large=large) as engine:
        for batch in (3, 1, *range(2, 12), 3):  # more shapes than are kept
            sample, timestep = np.resize(SAMPLE, (batch, CHANNELS)), np.arange(batch)
            outputs = engine({"sample": sample, "timestep": timestep})
            assert list(outputs) == ["out_sample"]
            np.testing.assert_allclose(outputs["out_sample"], linear(sample, timestep), atol=1e-4)


def test_an_engine_of_one_thread_ties_it_to_no_core() -> None:
    before, during = cores_of_threads(), set()
    image = np.zeros((1, 3, 256, 256), np.float32)
    engine = load_engine(Bundle.open(demo_gs_bundle()), "vae_encoder", "openvino", threads=1)
    with engine, ThreadPoolExecutor(1) as pool:
        engine({"sample": image})  # while it compiles, OpenVINO goes from core to core to learn what they are
        running = pool.submit(lambda: [engine({"sample": image}) for _ in range(5)])
        while not running.done():
            during |= cores_of_threads()
    assert during <= before | {frozenset(os.sched_getaffinity(0))}


def cores_of_threads() -> set[frozenset[int]]:
    """The cores on which each thread of this process may run."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has just ended
            found.add(frozenset(os.sched_getaffinity(int(task.name))))
    return found


@pytest.mark.parametrize(("component", "left"), [("label_denoiser", 0), ("text_encoder", 2)])
def test_attention_is_spread_where_it_has_no_mask_and_stays_the_same(component: str, left: int) -> None:
    bundle, core = Bundle.open(demo_gs_bundle()), openvino.Core()
    model = core.read_model(bundle.graph(component))
    shapes = {name: [1, *shape] for name, shape in FREE_AXES[component].items()}
    model.reshape(shapes)
    spread = model.clone()
    spread_attention(spread)
    attention = [node for node in spread.get_ops() if node.get_type_name() == "ScaledDotProductAttention"]
    assert len(attention) == left
    random = np.random.default_rng(0)
    feeds = {name: random.integers(0, 9, shape) if len(shape) < 3 else random.normal(size=shape)
             for name, shape in shapes.items()}  # fmt: skip
    results = [next(iter(core.compile_model(each, "CPU")(feeds).values())) for each in (model, spread)]
    np.testing.assert_array_equal(*results)


def test_threads_that_call_at_the_same_time_get_their_own_results() -> None:
    bundle = Bundle.open(demo_gs_bundle())
    image = np.random.default_rng(0).uniform(-1, 1, (4, 3, 64, 64)).astype(np.float32)
    with load_engine(bundle, "vae_encoder", "openvino") as engine:
        alone = [engine({"sample": each[None]})["latent_sample"] for each in image]
        with ThreadPoolExecutor(len(image)) as pool:
            for _ in range(20):
                together = pool.map(lambda each: engine({"sample": each[None]})["latent_sample"], image)
                for found, expected in zip(together, alone, strict=True):
                    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_parts_of_a_batch_are_even_and_cover_it(count: int, most: int) -> None:
    batch = np.arange(count)
    parts = even_parts(count, most)
    assert len(parts) <= min(count, most)
    assert {len(batch[part]) for part in parts} == {-(-count // min(count, most))}
    np.testing.assert_array_equal(np.unique(np.concatenate([batch[part] for part in parts])), batch)


@pytest.mark.parametrize("threads", [1, 8])
def test_a_large_graph_of_two_outputs_is_compiled_in_two_stages(threads: int) -> None:
    bundle = Bundle.open(demo_bundle())
    spec, random = bundle.manifest.components["unet"], np.random.default_rng(0)
    sizes = {"batch": 3, "height": 16, "width": 8, "tokens": bundle.manifest.tokens}
    feeds = {
        tensor.name: random.uniform(size=[sizes[s] if isinstance(s, str) else s for s in tensor.shape]).astype(
            tensor.dtype
        )
        for tensor in spec.inputs
    }
    graph = bundle.graph("unet")
    with OpenVinoEngine(graph, spec, 1) as whole, OpenVinoEngine(graph, spec, threads, large=True) as staged:
        expected = whole(feeds)
        for only in ("features", "out_sample", None):
            found = staged(feeds, only=only)
            assert {*found} == ({only} if only else {*expected})
            for name, values in found.items():
                np.testing.assert_allclose(values, expected[name], atol=1e-5 * np.ptp(expected[name]))
        [compiled] = staged._compiled.values()  # once for all of these
        early, late = (sum(1 for _ in stage[0].get_compiled_model().get_runtime_model().get_ops())
                       for stage in compiled.stages)  # fmt: skip
        assert 50 < late < early
        assert {len(stage) for stage in compiled.stages} == {min(3, max(1, threads // 4))}


def test_outputs_are_new_arrays(graph: Path) -> None:
    with OpenVinoEngine(graph, LINEAR) as engine:
        first = engine({"sample": SAMPLE, "timestep": TIMESTEP})["out_sample"]
        kept = first.copy()
        engine({"sample": -SAMPLE, "timestep": TIMESTEP})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("built", [False, True])
def test_bundle_runs_with_and_without_built_engines(bundle: Bundle, built: bool) -> None:
    if built:
        engines = build_engine(bundle, backend="openvino")
        assert [engine.path.suffix for engine in engines] == [".xml", ".xml"]
        assert all(engine.cached for engine in build_engine(bundle, backend="openvino"))
    with load_engine(bundle, "linear", "openvino") as engine:  # its weights are external data
        outputs = engine({"sample": SAMPLE, "timestep": TIMESTEP})
        np.testing.assert_allclose(outputs["out_sample"], linear(SAMPLE, TIMESTEP), atol=1e-4)
    with load_engine(bundle, "chain", "openvino") as engine:
        np.testing.assert_allclose(engine({"sample": SAMPLE})["out_sample"], chain(SAMPLE), rtol=1e-4, atol=1e-3)


def test_weights_of_a_built_engine_count(bundle: Bundle) -> None:
    [engine] = build_engine(bundle, backend="openvino", components=["chain"])
    os.truncate(engine.path.with_suffix(".bin"), 100)
    with pytest.raises(EngineError, match="is damaged: .* bytes, got 100") as caught:
        load_engine(bundle, "chain", "openvino")
    assert caught.value.hint and "build-engine" in caught.value.hint and "--backend openvino" in caught.value.hint


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no bfloat16")
def test_masks_in_bfloat16_are_nearly_those_in_float32() -> None:
    scenes = list(load_samples(demo_samples()).values())[:6]
    with (
        Refiner.from_bundle(demo_bundle()) as exact,
        Refiner.from_bundle(demo_bundle(), backend="openvino", precision="bf16") as rounded,
    ):
        pairs = [[refiner(s.image, s.coarse, s.label, guard=False) for refiner in (exact, rounded)] for s in scenes]
    assert any(np.any(ours.text_evidence != theirs.text_evidence) for ours, theirs in pairs)
    assert min(iou(ours.mask, theirs.mask) for ours, theirs in pairs) > 0.97


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no bfloat16")
@pytest.mark.parametrize(
    ("pipeline", "path", "large", "rounded"),
    [
        (Refiner, demo_bundle(), False, False),
        (Refiner, demo_bundle(), True, True),
        (Segmenter, demo_gs_bundle(), False, True),
    ],
)
def test_images_are_encoded_in_bfloat16_by_large_models_and_for_label_diffusion(
    monkeypatch: pytest.MonkeyPatch,
    pipeline: type[Refiner] | type[Segmenter],
    path: Path,
    large: bool,
    rounded: bool,
) -> None:
    if large:
        monkeypatch.setattr(recipe, "LARGE", 0)
    image = next(iter(load_samples(demo_samples()).values())).image
    with pipeline.from_bundle(path) as exact, pipeline.from_bundle(path, backend="openvino", precision="bf16") as ours:
        error = np.abs(exact.encode_image(image) - ours.encode_image(image)).max()
    assert 1e-3 < error < 0.2 if rounded else error < 1e-4


@pytest.mark.skipif(HAS_BFLOAT16, reason="this CPU has bfloat16")
def test_bfloat16_is_refused_where_the_cpu_lacks_it(graph: Path) -> None:
    with pytest.raises(BackendError, match="expected instructions for bfloat16"):
        OpenVinoEngine(graph, LINEAR, precision="bf16")


def test_bfloat16_is_refused_by_other_backends(bundle: Bundle) -> None:
    with pytest.raises(SettingsError, match="onnxruntime does not compute in bf16") as caught:
        load_engine(bundle, "chain", precision="bf16")
    assert caught.value.hint == "add --backend openvino"


def test_feeds_are_checked_and_a_closed_engine_says_so(graph: Path) -> None:
    engine = OpenVinoEngine(graph, LINEAR)
    with pytest.raises(ShapeError, match="'timestep': expected batch=3, as 'sample' has; got batch=2"):
        engine({"sample": SAMPLE, "timestep": TIMESTEP[:2]})
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="linear: its engine is closed"):
        engine({"sample": SAMPLE, "timestep": TIMESTEP})


def test_graph_of_another_component_is_refused(graph: Path) -> None:
    for spec in (replace(LINEAR, inputs=LINEAR.inputs[:1]), replace(LINEAR, outputs=())):
        with pytest.raises(EngineError, match="of linear: expected"):
            OpenVinoEngine(graph, spec)


def test_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a protobuf")
    (tmp_path / "model.xml").write_text("not a model")
    for name in ("model.onnx", "missing.onnx", "model.xml"):
        with pytest.raises(EngineError, match="does not load"):
            OpenVinoEngine(tmp_path / name, LINEAR)


def test_other_devices_and_no_threads_are_refused(bundle: Bundle, graph: Path) -> None:
    with pytest.raises(BackendError, match="OpenVINO: expected device cpu, got 'cuda'"):
        load_engine(bundle, "chain", "openvino", device="cuda")
    with pytest.raises(SettingsError, match="threads: expected 1 to 256, got 0"):
        OpenVinoEngine(graph, LINEAR, threads=0)


@pytest.mark.parametrize("module", ["openvino", "onnx"])
def test_missing_library_names_the_extra(graph: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingDependencyError) as caught:
        OpenVinoEngine(graph, LINEAR)
    assert caught.value.hint and 'pip install "segrefine[openvino]"' in caught.value.hint


def test_an_output_can_be_asked_for_alone() -> None:
    bundle = Bundle.open(demo_bundle())
    rng = np.random.default_rng(3)
    feeds = {
        "sample": rng.standard_normal((2, 4, 16, 8)).astype(np.float32),
        "timestep": np.array([100, 700]),
        "encoder_hidden_states": rng.standard_normal((2, 77, 128)).astype(np.float32),
        "foreground": rng.random((2, 1, 16, 8)).astype(np.float32),
        "token_indicator": np.ones((2, 77, 2), np.float32),
        "strength": np.ones((2, 2), np.float32),
    }
    for backend in CPU_BACKENDS:
        with load_engine(bundle, "unet", backend) as engine:
            alone, everything = engine(feeds, only="out_sample"), engine(feeds)
        assert list(alone) == ["out_sample"] and list(everything) == ["out_sample", "features"]
        np.testing.assert_allclose(alone["out_sample"], everything["out_sample"], atol=1e-4)
