"""Memory and disk space for an export, checked before the work from the headers of the weight files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from segrefine.errors import ExportError
from segrefine.export.memory import available_memory

_WORK = 3 << 29
"""Bytes for PyTorch itself, for tracing, and for what the trial runs compute."""


def estimate_memory(counts: Mapping[str, int], *, half: bool) -> int:
    """Bytes that exporting a part takes and that cannot be had again from a file: an upper estimate of its heap.

    Measured with random weights, two sizes of UNet (382 million weights, and the check of SDXL's in half precision, 2.6
    billion). Files that are mapped come on top, as far as there is room: their pages are dropped where there is none.

    - In half precision the library that checks the graph widens weights before their layers' turn: 2.8 bytes each.
    - In float32 from weights in half precision, they are widened, and the bundle's, in half of the bytes again, are
      made beside them: 6 bytes each.
    - In float32 from float32 the weights are mapped. They count all the same, 4 bytes each: with no room for them
      the export would read them anew from the disk at every step.

    Args:
        counts: how many weights the part has, by the type that they are stored in.
        half: it is exported in half precision.
    """
    total, wide = sum(counts.values()), counts.get("F32", 0)
    return _WORK + (3 * total if half else 4 * wide + 6 * (total - wide))


def check_resources(
    weights: Mapping[str, Mapping[str, int]], half: Iterable[str], target: Path, available: int | None = None
) -> None:
    """Checks that the parts can be exported, one after another.

    Args:
        weights: how many weights each part has, by the type that they are stored in.
        half: the parts that are exported in half precision.
        target: where the bundle will be.
        available: bytes of memory; None asks the system, and the control groups that a container is in.

    Raises:
        ExportError: there is too little memory or disk; the message has the figures.
    """
    if not weights:
        return
    halved = set(half)
    memory = {part: estimate_memory(counts, half=part in halved) for part, counts in weights.items()}
    largest = max(memory, key=lambda part: memory[part])
    if available is None:
        available = available_memory()
    if memory[largest] > available:
        raise ExportError(
            f"exporting {largest} takes about {_readable(memory[largest])} of memory, and {_readable(available)} "
            "are free",
            hint="free memory" + ("" if halved else ", or export with --dtype fp16, which takes less"),
        )
    sizes = {part: sum(counts.values()) * (2 if part in halved else 4) for part, counts in weights.items()}
    place = next(folder for folder in target.absolute().parents if folder.exists())
    total, free = sum(sizes.values()), shutil.disk_usage(place).free
    if total > free:
        raise ExportError(
            f"the bundle takes up to {_readable(total)} of disk, and {_readable(free)} are free in {place}",
            hint="free disk, or choose another place" + ("" if halved else ", or export in half of it: --dtype fp16"),
        )


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
