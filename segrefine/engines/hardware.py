"""Hardware that engines run on: the CPU and the GPUs of this machine, and versions of libraries."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from segrefine.engines.cuda import check_gpu, driver_cuda, import_cuda

_VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")
_VERSION_2 = "memory.max", "memory.current", ("active_file", "inactive_file")
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
    """The bytes of memory that Linux calls available, or that a container leaves if that is less; None elsewhere."""
    try:
        lines = (root / "proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    machine = (1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return min([*machine, *left_by_groups(root)], default=None)


def left_by_groups(root: Path) -> Iterator[int]:
    """Yield the memory left in each control group of this process: its own and all that contain that one."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        _, _, controllers_path = line.partition(":")
        controllers, _, path = controllers_path.partition(":")
        if not controllers:
            top, names = mounted, _VERSION_2
        elif "memory" in controllers.split(","):
            top, names = mounted / "memory", _VERSION_1
        else:
            continue
        own = top / path.lstrip("/")  # a container may see the path that its host has for it, and only `top` is there
        for folder in (own, *own.parents[: len(own.parts) - len(top.parts)]):
            if (left := _left_in(folder, *names)) is not None:
                yield left


def _left_in(folder: Path, limit: str, usage: str, cached: tuple[str, ...]) -> int | None:
    """Return the memory left in one control group; None if it has no limit."""
    try:
        most, used = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, usage))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        pages = {name: int(value) for name, value in (line.split() for line in lines)}
        return None if most == "max" else int(most) - int(used) + sum(pages[name] for name in cached)
    except (OSError, ValueError, KeyError):
        return None


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
