"""The installed libraries: which module builds, which one runs, and which driver and GPUs each of them needs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

from segrefine.engines.cuda import check_gpu, driver_cuda
from segrefine.engines.hardware import gpu_identity, version_numbers
from segrefine.errors import BackendError, MissingDependencyError

Library = Literal["tensorrt", "tensorrt-rtx"]
LIBRARIES: Mapping[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Library → the module that builds."""

CUDA_VERSIONS = ("cu12", "cu13")
"""What names of packages say of CUDA."""

_RUNTIMES: Mapping[Library, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt_bindings", "tensorrt_lean", "tensorrt_lean_bindings"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
"""Modules that run engines. TensorRT's lean runtime runs version-compatible ones only."""

_LEAST_CAPABILITY = 75
"""TensorRT 11 runs on Turing GPUs and later. TensorRT-RTX lists its GPUs in the module itself."""

_LEAST_VERSION: Mapping[Library, str] = {"tensorrt": "11", "tensorrt-rtx": "1.7"}
"""TensorRT before 11 may type weakly, and its parser may have no attention. The extras ask for these versions too."""

_CUDA_MAJORS = (14, 13, 12)


def import_library(library: Library) -> ModuleType:
    """Import the module of a library that can build.

    Raises:
        MissingDependencyError: it is not installed, or only the part that runs engines.
    """
    name = LIBRARIES[library]
    if found := import_first((name, f"{name}_bindings"), "Builder"):  # the wheels may lack their meta-package
        sys.modules.setdefault(name, found)
        return found
    raise MissingDependencyError(
        f"the builder of {library} is not installed", hint=f'install it: pip install "segrefine[{library}]"'
    )


def import_runtime(library: Library) -> ModuleType:
    """Import the module that runs a library's engines.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if found := import_first(_RUNTIMES[library], "Runtime"):
        return found
    message, hint = f"the runtime of {library} is not installed", f'install it: pip install "segrefine[{library}]"'
    raise MissingDependencyError(message, hint=hint)


def import_first(names: Sequence[str], what: str) -> ModuleType | None:
    """Import the first of these modules that is installed and has `what`; None where there is none."""
    for name in names:
        try:
            found = import_module(name)
        except ImportError:
            continue
        if hasattr(found, what):
            return found
    return None


def check_builder(library: Library) -> None:
    """Check that engines can be built with a library.

    Raises:
        BackendError: its version is too old.
        MissingDependencyError: the library is not installed, or Polygraphy, which drives it.
    """
    check_version(library, import_library(library))
    if find_spec("polygraphy") is None:
        hint = f'install it: pip install "segrefine[{library}]"'
        raise MissingDependencyError("the package polygraphy is not installed", hint=hint)


def check_runtime(library: Library, index: int) -> ModuleType:
    """Import the module that runs a library's engines, after checking that it can do so on a GPU.

    The checks come first because the library itself may end the process where CUDA does not answer.

    Raises:
        BackendError: CUDA does not answer, the library is too old, the driver is too old for the library, or the
            library does not support this GPU.
        MissingDependencyError: the library, or cuda-bindings, is not installed.
    """
    check_gpu(index, f'"cuda-bindings<13" with {" and ".join(_packages(LIBRARIES[library]))}')
    module = import_runtime(library)
    check_version(library, module)
    check_driver(module)
    check_capability(library, module, gpu_identity(index))
    return module


def check_version(library: Library, module: ModuleType) -> None:
    """Check that a library is new enough.

    Raises:
        BackendError: it is not; the hint names the extra that brings a newer one.
    """
    least = _LEAST_VERSION[library]
    if version_numbers(module.__version__) < version_numbers(least):
        raise BackendError(
            "it is too old",
            subject=library,
            expected=f"version {least} or later",
            got=module.__version__,
            hint=f'install a newer one: pip install --upgrade "segrefine[{library}]"',
        )


def is_lean(module: ModuleType) -> bool:
    """Return whether a module is TensorRT's lean runtime."""
    return "lean" in module.__name__


def check_driver(module: ModuleType) -> None:
    """Check that the NVIDIA driver supports the CUDA version that a library was built for.

    Raises:
        BackendError: it does not.
    """
    needed, driver = _cuda_of(module), driver_cuda()
    if needed is None or driver >= needed * 1000:
        return
    name = module.__name__.removesuffix("_bindings")
    old = " ".join(each.replace("cu12", f"cu{needed}") for each in _packages(name))
    raise BackendError(
        subject=f"{name} {module.__version__}",
        expected=f"an NVIDIA driver for CUDA {needed}",
        got=f"one for CUDA {driver // 1000}.{driver % 1000 // 10}",
        hint=f"install a newer driver (CUDA 13 needs R580 or later); or use CUDA 12: pip uninstall {old}; "
        f'pip install {" ".join(_packages(name))} "cuda-bindings<13"',
    )


def check_capability(library: Library, module: ModuleType, gpu: str) -> None:
    """Check that a library supports a GPU.

    Args:
        library: its name.
        module: its module.
        gpu: the compute capability, such as "sm89".

    Raises:
        BackendError: it does not; the hint names what does.
    """
    number = int(gpu.removeprefix("sm"))
    if library == "tensorrt":
        if number < _LEAST_CAPABILITY:
            raise BackendError(
                subject="TensorRT",
                expected=f"compute capability {_dotted(_LEAST_CAPABILITY)} or higher",
                got=_dotted(number),
                hint=_elsewhere(library),
            )
        return
    known = rtx_capabilities(module)
    if number not in known:
        raise BackendError(
            subject=f"TensorRT-RTX {module.__version__}",
            expected=f"a compute capability of {', '.join(map(_dotted, known))}",
            got=_dotted(number),
            hint=_elsewhere(library),
        )


def _elsewhere(library: Library) -> str:
    """Suggest another library for a GPU that this one does not support."""
    from segrefine.engines.backends import BACKENDS, join_names  # here: the table imports this module

    others = [each for each in BACKENDS.values() if "cuda" in each.devices and each.name != library]
    words = [f"--backend {each.name}" + " --device cuda" * ("cpu" in each.devices) for each in others]
    return f"on such a GPU use {join_names(words)}"


def rtx_capabilities(module: ModuleType) -> list[int]:
    """The compute capabilities that TensorRT-RTX supports, such as 89 for 8.9."""
    names = (name.removeprefix("SM") for name in dir(module.ComputeCapability) if name.startswith("SM"))
    return sorted(int(name) for name in names if name.isdecimal())


def load_nvrtc() -> bool:
    """Load NVRTC, the run-time compiler that TensorRT-RTX may look for; False if there is none.

    TensorRT-RTX finds the library by itself in a CUDA Toolkit, but not in the package `nvidia-cuda-nvrtc`.
    """
    try:
        from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib
    except ImportError:
        return False
    try:
        load_nvidia_dynamic_lib("nvrtc")
    except (DynamicLibNotFoundError, OSError, RuntimeError):
        return False
    return True


def _cuda_of(module: ModuleType) -> int | None:
    """The major version of CUDA that a library's package was built for; None if it did not come from such a package."""
    from importlib.metadata import PackageNotFoundError, version  # here: it takes a while, and few machines ask

    name = module.__name__.removesuffix("_bindings")
    for major in _CUDA_MAJORS:
        try:
            version(f"{name}_cu{major}_bindings")
        except PackageNotFoundError:
            continue
        return major
    return None


def _packages(name: str) -> list[str]:
    """The packages of a library for CUDA 12."""
    return ["tensorrt_cu12"] if name == "tensorrt" else [f"{name}_cu12_libs", f"{name}_cu12_bindings"]


def _dotted(number: int) -> str:
    return f"{number // 10}.{number % 10}"
