"""ONNX Runtime as a backend: right results, wrong feeds, wrong graphs, wrong devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from segrefine.engines.onnxruntime import engine as ort_engine
from segrefine.engines.onnxruntime.engine import OnnxRuntimeEngine, run_bound
from segrefine.errors import BackendError, EngineError, MissingDependencyError, SettingsError, ShapeError
from segrefine.spec import TensorSpec
from tests.tiny_bundle import CHAIN, CHANNELS, LINEAR, chain, chain_graph, linear, linear_graph

SAMPLE = np.random.default_rng(1).normal(size=(3, CHANNELS)).astype(np.float32)
TIMESTEP = np.arange(3)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(linear_graph(), path)
    return path


@pytest.mark.parametrize("threads", [None, 1])
def test_engine_computes_the_graph(graph: Path, threads: int | None) -> None:
    with OnnxRuntimeEngine(graph, LINEAR, threads=threads) as engine:
        for batch in (3, 1):
            outputs = engine({"sample": SAMPLE[:batch], "timestep": TIMESTEP[:batch]})
            assert list(outputs) == ["out_sample"]
            np.testing.assert_allclose(outputs["out_sample"], linear(SAMPLE, TIMESTEP)[:batch], atol=1e-5)


def test_feeds_are_checked(graph: Path) -> None:
    with (
        OnnxRuntimeEngine(graph, LINEAR) as engine,
        pytest.raises(ShapeError, match="'timestep': expected batch=3, as 'sample' has; got batch=2"),
    ):
        engine({"sample": SAMPLE, "timestep": TIMESTEP[:2]})


def test_closed_engine_says_so(graph: Path) -> None:
    engine = OnnxRuntimeEngine(graph, LINEAR)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="linear: its engine is closed"):
        engine({"sample": SAMPLE, "timestep": TIMESTEP})


def test_failure_inside_the_runtime_names_the_component(tmp_path: Path) -> None:
    """A graph whose constant does not fit what its specification promises fails only when it runs."""
    model = chain_graph()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "any"
    onnx.save(model, tmp_path / "model.onnx")
    loose = replace(CHAIN, inputs=(TensorSpec("sample", "float32", ("batch", "any")),))
    with (
        OnnxRuntimeEngine(tmp_path / "model.onnx", loose) as engine,
        pytest.raises(EngineError, match="chain: it failed"),
    ):
        engine({"sample": SAMPLE[:, :2]})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(LINEAR, inputs=LINEAR.inputs[:1]), "inputs of linear: expected .*, got .*timestep"),
        (
            replace(LINEAR, inputs=(LINEAR.inputs[0], TensorSpec("timestep", "float32", ("batch",)))),
            "inputs of linear: .* got .*int64",
        ),
        (
            replace(LINEAR, outputs=(TensorSpec("features", "float32", ("batch",)),)),
            "outputs of linear: .* got .*out_sample",
        ),
    ],
)
def test_graph_of_another_component_is_refused(graph: Path, spec: object, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        OnnxRuntimeEngine(graph, spec)  # type: ignore[arg-type]


def test_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a protobuf")
    for path in (tmp_path / "model.onnx", tmp_path / "missing.onnx"):
        with pytest.raises(EngineError, match="does not load"):
            OnnxRuntimeEngine(path, LINEAR)


@pytest.mark.parametrize("device", ["", "gpu", "cpu:0", "cuda:", "cuda:x", "CPU"])
def test_unknown_device(graph: Path, device: str) -> None:
    with pytest.raises(BackendError, match="device: expected cpu, cuda or cuda:N") as caught:
        OnnxRuntimeEngine(graph, LINEAR, device)
    assert caught.value.hint == "leave it out for the CPU"


def test_cuda_is_never_replaced_by_the_cpu(graph: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackendError, match="no CUDAExecutionProvider here, which device cuda:0 needs") as caught:
        OnnxRuntimeEngine(graph, LINEAR, "cuda:0")
    assert caught.value.hint and "segrefine[cuda]" in caught.value.hint


def test_threads_below_one(graph: Path) -> None:
    with pytest.raises(SettingsError, match="threads: expected 1 to 256, got 0"):
        OnnxRuntimeEngine(graph, LINEAR, threads=0)


def test_missing_library_names_the_extra(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError) as caught:
        OnnxRuntimeEngine(graph, LINEAR)
    assert caught.value.hint and 'pip install "segrefine[cpu]"' in caught.value.hint


def test_bound_sessions_hand_on_what_is_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA, with the CPU in its place."""
    monkeypatch.setattr(ort_engine, "LEAST_BYTES", 0)
    sessions = []
    for name, model in (("linear", linear_graph()), ("chain", chain_graph())):
        onnx.save(model, tmp_path / f"{name}.onnx")
        sessions.append(ort.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"]))
    device = ("cpu", 0)
    feeds: dict[str, NDArray[Any]] = {"sample": np.asfortranarray(SAMPLE), "timestep": TIMESTEP}
    given = run_bound(sessions[0], feeds, ["out_sample"], device)["out_sample"]
    np.testing.assert_allclose(given, linear(SAMPLE, TIMESTEP), atol=1e-5)
    result = run_bound(sessions[1], {"sample": given}, ["out_sample"], device)["out_sample"]
    np.testing.assert_allclose(result, chain(given), rtol=1e-4, atol=1e-3)
    on_device = ort_engine._resident(*device)
    on_device.keep(given, ort.OrtValue.ortvalue_from_numpy(np.ones_like(given)))  # another value: is it this one?
    result = run_bound(sessions[1], {"sample": given}, ["out_sample"], device)["out_sample"]
    np.testing.assert_allclose(result, chain(np.ones_like(given)), rtol=1e-4, atol=1e-3)
    assert on_device.find(given.copy()) is None
    del given, result
    assert not on_device._copies
