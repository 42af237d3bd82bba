"""What "auto" means: the best backend that is installed and can run here, and never the CPU in the place of a GPU."""

from __future__ import annotations

import pytest

from segrefine.bundle import Bundle
from segrefine.cli.options import Model
from segrefine.engines import BACKENDS, EngineOptions, choose_backend
from segrefine.engines import backend as backend_module
from segrefine.errors import BackendError
from tests.engines.cuda_stand_in import Cuda
from tests.engines.tensorrt.runtime_stand_in import build

LIBRARIES = ("tensorrt", "tensorrt-rtx")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_named_backend_stays(bundle: Bundle, backend: str) -> None:
    assert choose_backend(backend, bundle.path, "cuda:7", "bf16") == backend


@pytest.mark.parametrize(
    ("installed", "precision", "expected"),
    [
        ({"onnxruntime", "openvino"}, None, "onnxruntime"),
        ({"onnxruntime", "openvino"}, "bf16", "openvino"),
        ({"openvino"}, None, "openvino"),
        ({"onnxruntime"}, "fp16", "onnxruntime"),
        (set(), None, "onnxruntime"),  # its error names the extra
    ],
)
def test_on_the_cpu(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, installed: set[str], precision: str | None, expected: str
) -> None:
    monkeypatch.setattr(backend_module, "find_spec", lambda name: name in installed or None)
    assert choose_backend("auto", bundle.path, "cpu", precision) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("library", LIBRARIES)
def test_on_a_gpu_with_engines_of_every_graph(gpu: Cuda, bundle: Bundle, library: str) -> None:
    build(bundle, "linear", library)
    assert choose_backend("auto", bundle.path, "cuda") == "onnxruntime", "one graph has no engine"
    build(bundle, "chain", library)
    assert choose_backend("auto", bundle.path, "cuda:0") == library
    assert choose_backend("auto", bundle.path, "cpu") == "onnxruntime"
    gpu.capability = 7, 5
    assert choose_backend("auto", bundle.path, "cuda") == "onnxruntime", "no engine is for this GPU"


def test_of_both_libraries_the_engines_that_are_there_decide(gpu: Cuda, bundle: Bundle) -> None:
    for component in ("linear", "chain"):
        build(bundle, component, "tensorrt-rtx", hardware="sm86")
        build(bundle, component, "tensorrt")
    assert choose_backend("auto", bundle.path, "cuda") == "tensorrt"


def test_no_gpu_is_never_the_cpu(bundle: Bundle) -> None:
    for component in ("linear", "chain"):
        build(bundle, component, "tensorrt-rtx")
    assert choose_backend("auto", bundle.path, "cuda") == "onnxruntime", "which then says that there is no CUDA"
    with pytest.raises(BackendError, match="device: expected cpu, cuda or cuda:N; got 'gpu'"):
        choose_backend("auto", bundle.path, "gpu")


def test_the_output_says_which_one(bundle: Bundle) -> None:
    model = Model(bundle=bundle.path, engines=EngineOptions())
    assert model.engines.backend == "onnxruntime" and "onnxruntime on cpu" in model.describe()
    assert model.to_dict()["backend"] == "onnxruntime"
