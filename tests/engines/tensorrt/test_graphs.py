"""CUDA graphs, memory and streams: what costs no time in the steady state, and what happens when it fails."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from cuda.bindings import runtime as real

from segrefine.bundle import Bundle
from segrefine.engines import cuda as cuda_module
from segrefine.engines import load_engine
from segrefine.engines.tensorrt import buffers
from segrefine.errors import EngineError, EngineWarning
from tests.engines.cuda_stand_in import Cuda
from tests.engines.tensorrt.runtime_stand_in import build
from tests.tiny_bundle import CHANNELS, chain

SAMPLE = np.random.default_rng(1).normal(size=(3, CHANNELS)).astype(np.float32)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("cudaStreamBeginCapture", "cudaErrorNotSupported"),
        ("cudaStreamEndCapture", "cudaErrorStreamCaptureInvalidated"),
        ("cudaGraphInstantiate", "cudaErrorMemoryAllocation"),
    ],
)
def test_a_capture_that_fails_is_one_warning_and_plain_launches(
    gpu: Cuda, bundle: Bundle, function: str, error: str
) -> None:
    build(bundle, "chain", "tensorrt", least=3, most=3)
    gpu.failing[function] = getattr(real.cudaError_t, error)
    with load_engine(bundle, "chain", "tensorrt") as engine, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for shift in range(3):
            result = engine({"sample": SAMPLE + shift})["out_sample"]
            np.testing.assert_allclose(result, chain(SAMPLE + shift), rtol=1e-4, atol=1e-3)
    assert [each.category for each in said] == [EngineWarning]
    assert f"chain runs without a CUDA graph, and somewhat slower: CUDA device 0: {function} failed: {error}" in str(
        said[0].message
    )
    assert gpu.calls["cudaStreamBeginCapture"] == 1 and gpu.launched == 0 and gpu.recording is None
    assert gpu.calls["cudaGetLastError"] >= 1, "the next library to ask would find our error"


def test_an_engine_that_fails_while_captured_leaves_the_stream_usable(
    gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(bundle, "chain", "tensorrt", least=3, most=3)
    with load_engine(bundle, "chain", "tensorrt") as engine:
        ours = engine._engines[0]._loaded.context._ours  # type: ignore[attr-defined]
        run = type(ours).execute_async_v3
        monkeypatch.setattr(ours, "execute_async_v3", lambda s: gpu.recording is None and run(ours, s), raising=False)
        with pytest.warns(EngineWarning, match="chain: it failed in TensorRT"):
            engine({"sample": SAMPLE})
        result = engine({"sample": SAMPLE})["out_sample"]
    np.testing.assert_allclose(result, chain(SAMPLE), rtol=1e-4, atol=1e-3)
    assert gpu.recording is None and not gpu.graphs


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("set_input_shape", False, r"chain: TensorRT refuses \(3, 32\) for 'sample'"),
        ("get_tensor_shape", (-1, 32), r"does not know the size of 'out_sample': got \(-1, 32\)"),
        ("execute_async_v3", False, "chain: it failed in TensorRT: it says no reason"),
    ],
)
def test_what_tensorrt_refuses_while_running_is_an_error(
    gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, method: str, answer: object, message: str
) -> None:
    build(bundle, "chain", "tensorrt")
    with load_engine(bundle, "chain", "tensorrt") as engine:
        ours = engine._engines[0]._loaded.context._ours  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:
            patch.setattr(ours, method, lambda *given: answer)
            with pytest.raises(EngineError, match=message):
                engine({"sample": SAMPLE})
        result = engine({"sample": SAMPLE})["out_sample"]
    np.testing.assert_allclose(result, chain(SAMPLE), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
def test_no_call_allocates_once_all_shapes_were_seen(
    gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setattr(buffers, "LEAST_BYTES", 0)
    build(bundle, "chain", library)
    with load_engine(bundle, "chain", library) as engine:
        given = [engine({"sample": SAMPLE[:n]}) for n in (3, 2)]
        del given
        names = ("cudaMalloc", "cudaMallocHost", "cudaFree", "cudaFreeHost", "cudaMemGetInfo")
        before = [gpu.calls[name] for name in names]
        for n in (2, 3, 3, 2):
            result = engine({"sample": SAMPLE[:n]})["out_sample"]
            np.testing.assert_allclose(result, chain(SAMPLE[:n]), rtol=1e-4, atol=1e-3)
            del result
        assert [gpu.calls[name] for name in names] == before


def test_what_is_held_is_never_handed_out_again(gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "LEAST_BYTES", 0)
    build(bundle, "chain", "tensorrt")
    with load_engine(bundle, "chain", "tensorrt") as engine:
        held = [engine({"sample": SAMPLE + shift})["out_sample"] for shift in range(4)]
        addresses = [engine._engines[0]._gpu.resident.find(each).address for each in held]  # type: ignore[attr-defined]
        assert len(set(addresses)) == 4
        for address, each in zip(addresses, held, strict=True):
            np.testing.assert_array_equal(gpu.view(address, each.shape, np.float32), each)


def test_the_pool_has_a_limit_and_makes_way(gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_module, "MOST_POOLED", 3000)
    device = cuda_module.open_gpu(0)
    copies = [cuda_module.DeviceCopy(device, 1000) for _ in range(5)]
    copies.clear()
    device.free(device.take(500))
    assert len(gpu.device) == 3, "more than the limit was kept"
    gpu.capacity = 4000
    assert device.allocate(3500) in gpu.device, "the pool did not make way"
    assert len(gpu.device) == 1


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
def test_scratch_memory_is_reserved_when_engines_load(gpu: Cuda, bundle: Bundle, library: str) -> None:
    for component in ("linear", "chain"):
        build(bundle, component, library)
    with load_engine(bundle, "linear", library), load_engine(bundle, "chain", library) as engine:
        assert [len(memory) for memory in gpu.device.values()] == [4096]
        [scratch] = gpu.device
        engine({"sample": SAMPLE})
        assert scratch in gpu.device, "moved at the first run"
