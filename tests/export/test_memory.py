"""Memory that control groups leave, in files laid out as Linux lays them out."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from segrefine.export.memory import available_memory

GIB = 1 << 30


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def version_1(folder: str, limit: object, used: int, cached: int) -> dict[str, object]:
    stat = f"cache {cached}\ninactive_file 7\ntotal_inactive_file {cached}\ntotal_active_file 0"
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": used,
        f"{folder}/memory.stat": stat,
    }


def version_2(folder: str, limit: object, used: int, cached: int) -> dict[str, object]:
    stat = f"anon {used - cached}\nfile {cached}\ninactive_file {cached // 2}\nactive_file {cached // 2}"
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": used, f"{folder}/memory.stat": stat}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 * GIB}))


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/", version_2("sys/fs/cgroup", 8 * GIB, 3 * GIB, 2 * GIB), 7 * GIB),
        ("0::/app", version_2("sys/fs/cgroup/app", 8 * GIB, 3 * GIB, 0), 5 * GIB),
        ("0::/app", version_2("sys/fs/cgroup/app", "max", 3 * GIB, 0), 64 * GIB),
        (
            "0::/a/b",
            version_2("sys/fs/cgroup/a", 4 * GIB, GIB, 0) | version_2("sys/fs/cgroup/a/b", 8 * GIB, GIB, 0),
            3 * GIB,
        ),
        ("4:memory:/app\n0::/", version_1("sys/fs/cgroup/memory/app", 8 * GIB, 3 * GIB, GIB), 6 * GIB),
        ("4:cpu,memory:/docker/0123", version_1("sys/fs/cgroup/memory", 8 * GIB, 3 * GIB, 0), 5 * GIB),
        ("4:memory:/", version_1("sys/fs/cgroup/memory", 9223372036854771712, 3 * GIB, 0), 64 * GIB),
        ("3:cpuset:/", version_1("sys/fs/cgroup/memory", GIB, 0, 0), 64 * GIB),
        ("0::/", {}, 64 * GIB),
    ],
)
def test_the_least_of_machine_and_groups(lines: str, files: dict[str, object], expected: int, tmp_path: Path) -> None:
    assert available_memory(write(tmp_path, files | {"proc/self/cgroup": lines})) == expected


def test_elsewhere_than_on_linux(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == 64 * GIB
