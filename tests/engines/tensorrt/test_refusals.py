"""Libraries and engines that are too old or do not fit, and what must be ready before a library starts."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segrefine.bundle import Bundle
from segrefine.engines import diagnosis, load_engine
from segrefine.engines.onnxruntime import session as ort_module
from segrefine.engines.tensorrt import libraries, runtime
from segrefine.errors import BackendError, EngineError
from tests.engines.cuda_stand_in import Cuda
from tests.engines.tensorrt.runtime_stand_in import TensorRt, build

LIBRARIES = ("tensorrt", "tensorrt-rtx")
PYPROJECT = (Path(__file__).parents[3] / "pyproject.toml").read_text()
VERSIONS = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))


def floor(package: str) -> str:
    """The lowest version of a package that the extras allow."""
    [found] = set(re.findall(rf'"{re.escape(package)}>=([\d.]+)"', PYPROJECT))
    return str(found)


@pytest.mark.parametrize(
    ("library", "package", "old"),
    [("tensorrt", "tensorrt", "10.16.1"), ("tensorrt-rtx", "tensorrt_rtx_cu13_bindings", "1.6.9")],
)
def test_the_extras_ask_for_what_the_code_needs(library: Any, package: str, old: str) -> None:
    libraries.check_version(library, SimpleNamespace(__version__=floor(package)))  # type: ignore[arg-type]
    with pytest.raises(
        BackendError, match=f"{library}: it is too old: expected version {floor(package)} or later, got {old}"
    ) as said:
        libraries.check_version(library, SimpleNamespace(__version__=old))  # type: ignore[arg-type]
    assert f'--upgrade "segrefine[{library}]"' in str(said.value.hint)


@settings(deadline=None)
@given(version=VERSIONS)
def test_every_version_is_taken_or_refused(version: str) -> None:
    new_enough = int(version.partition(".")[0]) >= 11
    module: Any = SimpleNamespace(__version__=version)
    if new_enough:
        libraries.check_version("tensorrt", module)
    else:
        with pytest.raises(BackendError, match="is too old"):
            libraries.check_version("tensorrt", module)


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_old_library_does_not_load_engines(
    gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    build(bundle, "linear", library)
    module = TensorRt(gpu, library)
    monkeypatch.setattr(module, "__version__", "0.9.1", raising=False)
    monkeypatch.setattr(libraries, "import_runtime", lambda library: module)
    monkeypatch.setattr(libraries, "import_library", lambda library: module)
    with pytest.raises(BackendError, match=f"{library}: it is too old: .* got 0.9.1"):
        load_engine(bundle, "linear", library)
    with pytest.raises(BackendError, match=f"{library}: it is too old: .* got 0.9.1"):
        libraries.check_builder(library)  # type: ignore[arg-type]
    said = {(each.backend, each.task): str(each.problem) for each in diagnosis.list_abilities()}
    assert "is too old" in said[library, "run"] and "is too old" in said[library, "build"]


@pytest.mark.parametrize("old", ["1.25.9", "1.24.4", "0.9"])
def test_an_onnx_runtime_that_would_compute_attention_on_the_cpu(monkeypatch: pytest.MonkeyPatch, old: str) -> None:
    assert floor("onnxruntime-gpu[cuda,cudnn]") == ort_module._LEAST_FOR_CUDA
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    module = SimpleNamespace(__version__=old, get_available_providers=lambda: providers)
    monkeypatch.setattr(ort_module, "import_onnxruntime", lambda: module)
    assert ort_module.check_provider("cpu") == "CPUExecutionProvider"
    with pytest.raises(BackendError, match=f"ONNX Runtime: it is too old for CUDA.* got {old}"):
        ort_module.check_provider("cuda")
    module.__version__ = ort_module._LEAST_FOR_CUDA
    assert ort_module.check_provider("cuda:1") == "CUDAExecutionProvider"


def test_an_engine_that_tensorrt_rtx_calls_invalid(gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """For another GPU, driver or version, damaged, or too large: every set of bits that it may return, in words."""
    path = build(bundle, "linear", "tensorrt-rtx")
    module = TensorRt(gpu, "tensorrt-rtx")
    monkeypatch.setattr(libraries, "import_runtime", lambda library: module)
    reasons = module.EngineInvalidityDiagnostics.__members__
    module.validity = "INVALID"
    for chosen in (set(each) for count in range(len(reasons) + 1) for each in combinations(reasons, count)):
        module.reasons = sum(reasons[name].value for name in chosen)
        with pytest.raises(EngineError, match="does not fit this machine: ") as caught:
            load_engine(bundle, "linear", "tensorrt-rtx")
        words = [name.lower().replace("_", " ") for name in reasons if name in chosen]
        assert str(caught.value).endswith(" and ".join(words) or "it says no reason") and str(path) in str(caught.value)
        only = {"OLD_CUDA_DRIVER": "newer driver", "INSUFFICIENT_GPU_MEMORY": "close other programs"}
        expected = next((only[name] for name in only if name in chosen), "segrefine build-engine")
        assert expected in str(caught.value.hint)
    module.validity = "SUBOPTIMAL"  # slower than one that was built for this GPU alone, and yet it runs
    load_engine(bundle, "linear", "tensorrt-rtx").close()


@pytest.mark.parametrize(("library", "expected"), [("tensorrt-rtx", ["nvrtc", "runtime"]), ("tensorrt", ["runtime"])])
def test_the_compiler_is_loaded_before_the_runtime_that_needs_it(
    gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, library: str, expected: list[str]
) -> None:
    order: list[str] = []
    build(bundle, "linear", library)
    start = runtime.start_runtime
    monkeypatch.setattr(runtime, "load_nvrtc", lambda: order.append("nvrtc"))
    monkeypatch.setattr(runtime, "start_runtime", lambda *given: order.append("runtime") or start(*given))
    load_engine(bundle, "linear", library).close()
    assert order == expected
