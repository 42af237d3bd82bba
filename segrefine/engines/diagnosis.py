"""What this machine can build and run, found by trying, and what keeps it from the rest."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, get_args

from segrefine.engines.hardware import gpu_identity
from segrefine.engines.onnxruntime import check_provider
from segrefine.engines.openvino import check_openvino
from segrefine.engines.tensorrt import Library
from segrefine.engines.tensorrt.libraries import (
    check_builder,
    check_capability,
    check_runtime,
    import_library,
    import_runtime,
    load_nvrtc,
)
from segrefine.errors import SegrefineError

_LIBRARIES, _CUDA = ("tensorrt", "tensorrt_lean", "tensorrt_rtx"), ("cu12", "cu13")
PACKAGES = (
    *("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt"),
    *(f"{library}_{cuda}_bindings" for library in _LIBRARIES for cuda in _CUDA),
    *("polygraphy", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13"),
    *("torch", "diffusers", "transformers", "onnx", "onnxscript"),
)
_CUDA_DRIVER = "libcuda.so.1"


@dataclass(frozen=True, kw_only=True)
class Ability:
    """One thing that a backend can do, or cannot do here.

    Attributes:
        backend: its name.
        task: `run` engines, or `build` them.
        where: the device, or what engines are built for.
        problem: why it cannot; None where it can.
        hint: what to do about it.
    """

    backend: str
    task: Literal["run", "build"]
    where: str
    problem: str | None = None
    hint: str | None = None


def list_packages() -> dict[str, str]:
    """Version of each package that is installed, of those that matter."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def find_conflicts() -> list[str]:
    """What is installed together but must not be."""
    installed = list_packages().keys()
    found = []
    if {"onnxruntime", "onnxruntime-gpu"} <= installed:
        found.append(
            "onnxruntime and onnxruntime-gpu overwrite each other's files, and CUDA is lost without a word: "
            "pip uninstall both, then install the one"
        )
    for library in _LIBRARIES:
        both = [f"{library}_{cuda}_bindings" for cuda in _CUDA]
        if installed >= {*both}:
            found.append(f"{' and '.join(both)} overwrite each other's files: pip uninstall both, then install the one")
    return found


def find_gaps() -> list[str]:
    """What an installed library may need on the GPU here and does not find."""
    try:
        check_runtime("tensorrt-rtx", 0)
    except SegrefineError:  # it does not run here anyway, and `list_abilities` says why
        return []
    if load_nvrtc():
        return []
    return [
        "NVRTC, NVIDIA's run-time compiler, is not found; TensorRT-RTX may need it to compile engines: "
        "pip install nvidia-cuda-nvrtc (nvidia-cuda-nvrtc-cu12 for CUDA 12), or install the CUDA Toolkit"
    ]


def gpu_here() -> str | None:
    """Compute capability of the first GPU, such as "8.9"; None without one that answers."""
    try:
        number = gpu_identity(0).removeprefix("sm")
    except SegrefineError:
        return None
    return f"{number[:-1]}.{number[-1]}"


def cuda_driver() -> str | None:
    """The newest CUDA that the driver serves, such as "13.0"; None without a driver."""
    try:
        driver = ctypes.CDLL(_CUDA_DRIVER)
    except OSError:
        return None
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def list_abilities() -> Iterator[Ability]:
    """What each backend can do here."""
    yield _try("onnxruntime", "run", "cpu", lambda: check_provider("cpu"))
    yield _try("onnxruntime", "run", "cuda", lambda: check_provider("cuda"), lambda: gpu_identity(0))
    yield _try("openvino", "run", "cpu, fp32", lambda: check_openvino("fp32"))
    yield _try("openvino", "run", "cpu, bf16", lambda: check_openvino("bf16"))
    for library in get_args(Library):
        yield _try(library, "run", "cuda", partial(import_runtime, library), partial(check_runtime, library, 0))
    yield _try("tensorrt-rtx", "build", "any GPU it supports", lambda: check_builder("tensorrt-rtx"))
    for library in get_args(Library):
        yield _try(library, "build", "the GPU here", partial(check_builder, library), partial(_check_gpu_here, library))


def _check_gpu_here(library: Library) -> None:
    check_capability(library, import_library(library), gpu_identity(0))


def _try(backend: str, task: Literal["run", "build"], where: str, *attempts: Callable[[], object]) -> Ability:
    try:
        for attempt in attempts:
            attempt()
    except SegrefineError as error:
        return Ability(backend=backend, task=task, where=where, problem=str(error), hint=error.hint)
    return Ability(backend=backend, task=task, where=where)
