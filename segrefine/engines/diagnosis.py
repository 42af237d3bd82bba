"""What this machine could build and run, found by trying, and why it could not do the rest."""

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
from segrefine.engines.tensorrt import Library, check_builder
from segrefine.engines.tensorrt_engine import import_runtime
from segrefine.errors import SegrefineError

PACKAGES = (
    *("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_lean_cu13_bindings"),
    *("tensorrt_rtx_cu13_libs", "tensorrt_rtx_cu13_bindings", "polygraphy", "cuda-bindings"),
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
    if {"onnxruntime", "onnxruntime-gpu"} <= list_packages().keys():
        return [
            "onnxruntime and onnxruntime-gpu overwrite each other's files, and CUDA is lost without a word: "
            "pip uninstall both, then install the one"
        ]
    return []


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
        yield _try(library, "run", "cuda", partial(import_runtime, library), lambda: gpu_identity(0))
    yield _try("tensorrt-rtx", "build", "any GPU", lambda: check_builder("tensorrt-rtx"))
    yield _try("tensorrt", "build", "the GPU here", lambda: check_builder("tensorrt"), lambda: gpu_identity(0))


def _try(backend: str, task: Literal["run", "build"], where: str, *attempts: Callable[[], object]) -> Ability:
    try:
        for attempt in attempts:
            attempt()
    except SegrefineError as error:
        return Ability(backend=backend, task=task, where=where, problem=str(error), hint=error.hint)
    return Ability(backend=backend, task=task, where=where)
