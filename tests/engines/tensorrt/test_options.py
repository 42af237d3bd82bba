"""TensorFloat-32 and version compatibility: off unless asked for, on every backend, and recorded in the sidecar."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from segrefine.bundle import Bundle
from segrefine.cli.built_engines import list_engines
from segrefine.engines import BuildOptions, build_engine, load_engine
from segrefine.engines import build as build_module
from segrefine.engines.onnxruntime import session as ort_module
from segrefine.engines.onnxruntime.session import preload_cuda
from segrefine.engines.tensorrt.build import tensorrt_recipe
from segrefine.engines.tensorrt.builder import set_tf32
from segrefine.errors import BackendError, SettingsError
from tests.engines.tensorrt.runtime_stand_in import one_gpu

ADA = {"compute_capabilities": ("8.9",)}


def test_the_library_allows_tf32_unless_it_is_told() -> None:
    rtx: Any = pytest.importorskip("tensorrt_rtx_bindings")
    config = rtx.Builder(rtx.Logger(rtx.Logger.ERROR)).create_builder_config()
    assert config.get_flag(rtx.BuilderFlag.TF32), "no reason for set_tf32 any more"
    set_tf32(rtx, config, allowed=False)
    assert not config.get_flag(rtx.BuilderFlag.TF32)
    set_tf32(rtx, config, allowed=True)
    assert config.get_flag(rtx.BuilderFlag.TF32)


@pytest.mark.parametrize("tf32", [False, True])
def test_a_built_engine_records_it(bundle: Bundle, tf32: bool) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    options = BuildOptions(**ADA, tf32=tf32)  # type: ignore[arg-type]
    [built] = build_engine(bundle, backend="tensorrt-rtx", components=["linear"], options=options)
    sidecar = json.loads(built.path.with_suffix(".json").read_text())
    assert sidecar["options"]["tf32"] is tf32
    assert ("_tf32_" in built.path.name) == tf32
    recipe = tensorrt_recipe(bundle, "linear", "tensorrt-rtx", options)
    assert recipe.rebuild_command(bundle).endswith(" --tf32") == tf32
    assert recipe.build_options.tf32 is tf32


def test_an_engine_of_tensorrt_rtx_is_of_one_version(bundle: Bundle) -> None:
    options = BuildOptions(**ADA, version_compatible=True)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="TensorRT-RTX: an engine runs on its own version only"):
        build_engine(bundle, backend="tensorrt-rtx", components=["linear"], options=options)


@pytest.fixture
def cuda_session(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What sessions on CUDA are given; they run on the CPU, for there is no GPU."""
    import onnxruntime

    given: list[Any] = []
    session = onnxruntime.InferenceSession
    preload_cuda.cache_clear()
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: given.append("CUDA and cuDNN are loaded"), raising=False)

    def on_cpu(source: Any, options: Any, providers: list[str], settings: Any, **rest: Any) -> Any:
        assert "CUDA and cuDNN are loaded" in given, "a session on CUDA finds no libraries in Python packages"
        given.append((providers, settings))
        made = session(source, options, ["CPUExecutionProvider"], **rest)
        return SimpleNamespace(
            get_providers=lambda: providers, disable_fallback=lambda: None, get_inputs=made.get_inputs,
            get_outputs=made.get_outputs,
        )  # fmt: skip

    monkeypatch.setattr(onnxruntime, "InferenceSession", on_cpu)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    yield given
    preload_cuda.cache_clear()


@pytest.mark.parametrize("tf32", [False, True])
def test_onnx_runtime_on_a_gpu(bundle: Bundle, cuda_session: list[Any], tf32: bool) -> None:
    with one_gpu():
        load_engine(bundle, "linear", "onnxruntime", device="cuda").close()
        assert cuda_session.pop() == (["CUDAExecutionProvider"], [{"device_id": "0", "use_tf32": "0"}])
        options = BuildOptions(tf32=tf32)
        [built] = build_engine(bundle, backend="onnxruntime", device="cuda", components=["linear"], options=options)
        load_engine(bundle, "linear", "onnxruntime", device="cuda").close()
        assert cuda_session[-1][1] == [{"device_id": "0", "use_tf32": str(int(tf32))}]
        assert json.loads(built.path.with_suffix(".json").read_text())["options"] == {"tf32": tf32}
        assert [each.state for each in list_engines(bundle) if each.component == "linear"] == ["current"]


@pytest.mark.parametrize(
    ("backend", "device", "hint"), [("onnxruntime", "cpu", "--device cuda"), ("openvino", "cpu", "tensorrt-rtx")]
)
def test_tf32_is_an_option_of_gpus(bundle: Bundle, backend: str, device: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=f"{backend} has no such options") as caught:
        build_module.build_engine(bundle, backend=backend, device=device, options=BuildOptions(tf32=True))
    assert hint in str(caught.value.hint)


def test_what_onnx_runtime_prints_stays_off_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    ort = SimpleNamespace(preload_dlls=lambda: print("Failed to load libcudnn.so.9"))
    preload_cuda.cache_clear()
    assert preload_cuda.__wrapped__(ort) == "Failed to load libcudnn.so.9"
    assert capsys.readouterr().out == "" and preload_cuda.__wrapped__(SimpleNamespace()) == ""
    assert sys.stdout is not None and ort_module.preload_cuda is preload_cuda
