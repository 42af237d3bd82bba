"""Drivers, GPUs and libraries that do not go together: one clear error each, before anything can crash."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from cuda.bindings import runtime as real

from segrefine.bundle import Bundle
from segrefine.engines import BuildOptions, build_engine, diagnosis, load_engine
from segrefine.engines import cuda as cuda_module
from segrefine.engines.tensorrt import backend, libraries
from segrefine.errors import BackendError
from tests.engines.cuda_stand_in import Cuda
from tests.engines.tensorrt.runtime_stand_in import TensorRt, build

LIBRARIES = ("tensorrt", "tensorrt-rtx")
OLD = real.cudaError_t.cudaErrorInsufficientDriver


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("failing", "driver", "message", "hint"),
    [
        ({"cudaGetDeviceCount": OLD}, 0, "the NVIDIA driver is missing", "install NVIDIA's driver"),
        (
            {"cudaGetDeviceCount": OLD},
            12040,
            r"driver is too old: .* CUDA 13.* CUDA 12\.4",
            "{library}_cu12",
        ),
        ({"cudaGetDeviceCount": real.cudaError_t.cudaErrorNoDevice}, 13000, "cudaErrorNoDevice", "nvidia-smi"),
        ({"cudaGetDeviceCount": real.cudaError_t.cudaErrorSystemDriverMismatch}, 13000, "Mismatch", "nvidia-smi"),
    ],
)
def test_drivers_that_do_not_answer(
    gpu: Cuda, bundle: Bundle, library: str, failing: dict[str, Any], driver: int, message: str, hint: str
) -> None:
    build(bundle, "linear", library)
    gpu.failing, gpu.driver = failing, driver
    with pytest.raises(BackendError, match=message) as caught:
        load_engine(bundle, "linear", library)
    assert hint.format(library=library.replace("-", "_")) in str(caught.value.hint)


def test_cuda_bindings_that_raise_without_a_driver(gpu: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(gpu, "cudaGetDeviceCount", refuse)
    with pytest.raises(BackendError, match=r"the NVIDIA driver is missing: Failed to dlopen libcuda\.so\.1"):
        cuda_module.check_gpu(0)


@pytest.mark.parametrize(
    ("library", "packages"),
    [("tensorrt-rtx", "tensorrt_rtx_cu12_libs tensorrt_rtx_cu12_bindings"), ("tensorrt", "tensorrt_cu12")],
)
def test_library_of_cuda_13_on_a_driver_of_cuda_12(
    gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, library: str, packages: str
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"x": name}["x" if "cu13" in name else name])
    monkeypatch.setattr("importlib.metadata.PackageNotFoundError", KeyError)
    build(bundle, "linear", library)
    gpu.driver = gpu.runtime = 12080
    with pytest.raises(BackendError, match=r"expected an NVIDIA driver for CUDA 13, got one for CUDA 12\.8") as said:
        load_engine(bundle, "linear", library)
    hint = str(said.value.hint)
    assert f'pip install {packages} "cuda-bindings<13"' in hint
    assert f"uninstall {packages.replace('cu12', 'cu13')}" in hint


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_runtime_that_does_not_start_is_never_touched(
    gpu: Cuda, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    build(bundle, "linear", library)
    module = TensorRt(gpu, library)
    module.broken = "CUDA initialization failure with error: 35"
    monkeypatch.setattr(libraries, "import_runtime", lambda library: module)
    with pytest.raises(BackendError, match="does not start: CUDA initialization failure with error: 35") as caught:
        load_engine(bundle, "linear", library)
    assert "segrefine doctor" in str(caught.value.hint)


@pytest.mark.parametrize("bindings", ["tensorrt_lean_bindings", "tensorrt_rtx_bindings"])
def test_the_real_runtime_without_a_driver_is_an_error_and_no_crash(bindings: str) -> None:
    status, _ = cuda_module.import_cuda().cudaGetDeviceCount()
    if status == real.cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU here")
    code = f"""
import {bindings} as module
from segrefine.engines.tensorrt.runtime import new_log, start_runtime
from segrefine.errors import BackendError
try:
    start_runtime(module, new_log(module)).deserialize_cuda_engine(b"no engine")
except BackendError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    if "lean" in bindings:
        assert "refused: tensorrt_lean_bindings" in done.stdout and "does not start: " in done.stdout


UNSUPPORTED = [("tensorrt-rtx", each) for each in ((7, 0), (8, 7), (9, 0), (10, 0), (10, 3), (11, 0))]


@pytest.mark.parametrize(("library", "capability"), [*UNSUPPORTED, ("tensorrt", (7, 0))])
def test_a_gpu_that_the_library_does_not_support(
    gpu: Cuda, bundle: Bundle, library: str, capability: tuple[int, int]
) -> None:
    gpu.capability = capability
    dotted = ".".join(map(str, capability))
    build(bundle, "linear", library, hardware="sm" + dotted.replace(".", ""))
    with pytest.raises(BackendError, match=f"compute capability.* got {dotted}") as caught:
        load_engine(bundle, "linear", library)
    assert "--backend" in str(caught.value.hint)
    abilities = {(each.backend, each.task, each.where): each for each in diagnosis.list_abilities()}
    assert dotted in str(abilities[library, "run", "cuda"].problem)
    if library == "tensorrt-rtx":
        assert dotted in str(abilities[library, "build", "the GPU here"].problem)
        with pytest.raises(BackendError, match=f"compute capability.* got {dotted}"):
            build_engine(bundle, backend=library, components=["linear"], options=BuildOptions())


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)])
def test_gpus_that_tensorrt_rtx_supports(gpu: Cuda, capability: tuple[int, int]) -> None:
    gpu.capability = capability
    assert libraries.check_runtime("tensorrt-rtx", 0)
    assert diagnosis.gpu_here() == ".".join(map(str, capability))


def test_doctor_misses_the_compiler_that_tensorrt_rtx_needs(gpu: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "load_nvrtc", lambda: False)
    [gap] = diagnosis.find_gaps()
    assert "pip install nvidia-cuda-nvrtc" in gap
    gpu.capability = 9, 0  # TensorRT-RTX does not run here anyway
    assert diagnosis.find_gaps() == []


def test_the_compiler_is_found_in_its_package() -> None:
    pytest.importorskip("nvidia.cu13", reason="nvidia-cuda-nvrtc is not installed")
    code = "from segrefine.engines.tensorrt.libraries import load_nvrtc; print(load_nvrtc())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_two_cuda_versions_of_one_library_are_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"tensorrt_rtx_cu12_bindings": "1.7.1", "tensorrt_rtx_cu13_bindings": "1.7.1"}
    monkeypatch.setattr(diagnosis, "list_packages", lambda: both)
    [conflict] = diagnosis.find_conflicts()
    assert "tensorrt_rtx_cu12_bindings and tensorrt_rtx_cu13_bindings overwrite each other's files" in conflict
