"""Whether an export fits into memory and on the disk, known before the work from the headers of the weight files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from segrefine.errors import ExportError

_WORK = 3 << 29
"""Bytes for PyTorch itself, for tracing, and for what the trial runs compute."""


def check_resources(
    weights: Mapping[str, int], half: Iterable[str], target: Path, available: int | None = None
) -> None:
    """Checks that the parts can be exported, one after another.

    Args:
        weights: how many weights each part has.
        half: the parts that are exported in half precision.
        target: where the bundle will be.
        available: bytes of memory; None asks the system.

    Raises:
        ExportError: there is too little memory or disk; the message has the figures.
    """
    halved = set(half)
    sizes = {part: count * (2 if part in halved else 4) for part, count in weights.items()}
    if not sizes:
        return
    largest = max(sizes, key=lambda part: sizes[part])
    needed = sizes[largest] + _WORK
    if available is None:
        available = psutil.virtual_memory().available
    if needed > available:
        raise ExportError(
            f"exporting {largest} takes about {_gigabytes(needed)} of memory, and {_gigabytes(available)} are free",
            hint="free memory, or export in half of it: --dtype fp16",
        )
    place = next(folder for folder in target.absolute().parents if folder.exists())
    total, free = sum(sizes.values()), shutil.disk_usage(place).free
    if total > free:
        raise ExportError(
            f"the bundle takes up to {_gigabytes(total)} of disk, and {_gigabytes(free)} are free in {place}",
            hint="free disk, choose another place, or export in half of it: --dtype fp16",
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
