"""What an engine is tuned to: the CPU and the GPUs of this machine."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

from segrefine.errors import BackendError, MissingDependencyError

_INSTRUCTION_SETS = ("avx", "fma", "f16c", "amx", "asimd", "sve", "bf16", "i8mm")


@cache
def cpu_identity() -> str:
    """The machine type and the instruction sets that ONNX Runtime's kernels and layouts depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
    words = set(text.split("\n\n")[0].lower().split())  # the first core stands for all
    return " ".join([platform.machine(), *sorted(word for word in words if word.startswith(_INSTRUCTION_SETS))])


def gpu_identity(index: int) -> str:
    """The compute capability of a CUDA device, such as "sm89".

    Raises:
        BackendError: there is no such device.
        MissingDependencyError: cuda-bindings is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        hint = 'install it: pip install "segrefine[cuda]"'
        raise MissingDependencyError("the package cuda-bindings is not installed", hint=hint) from error
    attribute = runtime.cudaDeviceAttr
    wanted = (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
    answers = [runtime.cudaDeviceGetAttribute(entry, index) for entry in wanted]
    if any(status != runtime.cudaError_t.cudaSuccess for status, _ in answers):
        raise BackendError(f"there is no CUDA device {index}: {answers[0][0].name}", hint="nvidia-smi lists them")
    return "sm" + "".join(str(value) for _, value in answers)
