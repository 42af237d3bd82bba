"""Memory this process may still take: from the machine, and within a container's limit."""

from __future__ import annotations

from pathlib import Path

import psutil

from segrefine.engines.hardware import left_by_groups


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be taken before the system swaps, or ends a process of the control group.

    Pages of files count as free, as they can be read again.

    Args:
        root: where `proc` and `sys` are.
    """
    return min([int(psutil.virtual_memory().available), *left_by_groups(root)])
