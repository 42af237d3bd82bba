"""Memory of mapped weight files, given back before it is taken a second time."""

from __future__ import annotations

import ctypes
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_DONTNEED = 4


def release_weight_files() -> None:
    """Lets go of the pages of safetensors files that are mapped; whoever reads one again gets it from its file.

    The exporter's optimiser holds weights of the graph it saw last, and so the files they are mapped from. Elsewhere
    than on Linux this does nothing.
    """
    if not _MAPS.exists():
        return
    madvise = ctypes.CDLL(None).madvise
    for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.endswith(".safetensors"):
            start, end = (int(address, 16) for address in line.split(maxsplit=1)[0].split("-"))
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONTNEED)
