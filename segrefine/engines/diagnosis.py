"""Abilities of this machine to build and run engines, found by trying, and the obstacles to the others."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from segrefine.engines.backend import Ability
from segrefine.engines.backends import BACKENDS
from segrefine.engines.hardware import gpu_identity
from segrefine.errors import SegrefineError

_EXPORT_PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxscript")
_CUDA_DRIVER = "libcuda.so.1"


def list_packages() -> dict[str, str]:
    """Version of each package that is installed, of those that matter."""
    found: dict[str, str] = {}
    wanted = [package for backend in BACKENDS.values() for package in backend.packages]
    for package in dict.fromkeys((*wanted, *_EXPORT_PACKAGES)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def find_conflicts() -> list[str]:
    """Return packages that must not be installed together."""
    installed = list_packages().keys()
    return [conflict for backend in BACKENDS.values() for conflict in backend.conflicts(installed)]


def find_gaps() -> list[str]:
    """Return things that an installed library may need on the GPU and does not find."""
    return [gap for backend in BACKENDS.values() for gap in backend.gaps()]


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
    """Yield the abilities of each backend here: first running, then building."""
    found = [ability for backend in BACKENDS.values() for ability in backend.abilities()]
    yield from sorted(found, key=lambda ability: ability.task == "build")
