"""Hardware that engines run on: the CPU and the GPUs of this machine, and versions of libraries."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from pathlib import Path

from segrefine.engines.cuda import check_gpu, driver_cuda, import_cuda

_INSTRUCTION_SETS = ("avx", "fma", "f16c", "amx", "asimd", "sve", "bf16", "i8mm")


@cache
def cpu_identity() -> str:
    """The machine type and the instruction sets that kernels and layouts depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
    words = set(text.split("\n\n")[0].lower().split())  # the first core stands for all
    return " ".join([platform.machine(), *sorted(word for word in words if word.startswith(_INSTRUCTION_SETS))])


def usable_cores() -> int:
    """Count the cores this process may use: fewer than the machine's if it is bound to some (`taskset`, a job)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(root: Path = Path("/")) -> int | None:
    """The bytes of memory that Linux calls available; None on other systems."""
    try:
        lines = (root / "proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def gpu_identity(index: int) -> str:
    """Compute capability of a CUDA device, such as "sm89".

    Raises:
        BackendError: CUDA does not answer, or there is no such device.
        MissingDependencyError: cuda-bindings is not installed.
    """
    check_gpu(index)
    cuda = import_cuda()
    attribute = cuda.cudaDeviceAttr
    wanted = (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
    answers = [cuda.cudaDeviceGetAttribute(entry, index) for entry in wanted]
    return "sm" + "".join(str(value) for _, value in answers)


def gpu_machine(index: int) -> str:
    """Compute capability of a CUDA device, and the CUDA version that its driver supports, such as "sm89-cuda13.0".

    Raises:
        BackendError: see `gpu_identity`.
        MissingDependencyError: cuda-bindings is not installed.
    """
    gpu, cuda = gpu_identity(index), driver_cuda()
    return f"{gpu}-cuda{cuda // 1000}.{cuda % 1000 // 10}"


def version_numbers(version: str) -> list[int]:
    """The first three numbers of a library's version, to be compared, such as [11, 4, 0] for "11.4.0.106"."""
    return [int(part) for part in re.findall(r"\d+", version)[:3]]
