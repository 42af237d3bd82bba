"""Memory this process may still take: from the machine, and within a container's limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")
_VERSION_2 = "memory.max", "memory.current", ("active_file", "inactive_file")


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be taken before the system swaps, or ends a process of the control group.

    Pages of files count as free, as they can be read again.

    Args:
        root: where `proc` and `sys` are.
    """
    return min([int(psutil.virtual_memory().available), *_left_by_groups(root)])


def _left_by_groups(root: Path) -> Iterator[int]:
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
