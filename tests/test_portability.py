"""What holds on other systems and on older Pythons, seen from here: modules that are missing there, and newer names."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import segrefine
from segrefine.errors import OutputError
from segrefine.storage import LOCK, locked, staging_folder

ROOT = Path(segrefine.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
POSIX = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "posix")
NEWER = {
    "typing": {"Self", "Never", "assert_never", "LiteralString", "Unpack", "Required", "NotRequired", "override"},
    "datetime": {"UTC"}, "hashlib": {"file_digest"}, "enum": {"StrEnum", "verify"}, "contextlib": {"chdir"},
    "asyncio": {"timeout", "TaskGroup", "Runner", "Barrier"}, "math": {"cbrt", "exp2"}, "operator": {"call"},
    "itertools": {"batched"}, "logging": {"getLevelNamesMapping"}, "inspect": {"getmembers_static"},
}  # fmt: skip
"""Names that came after Python 3.10, by their modules."""
WINDOWS = """
import sys; sys.modules.update(dict.fromkeys(("fcntl", "resource", "pwd", "grp", "termios", "tty")))
from pathlib import Path
from segrefine.bundle import Bundle
from segrefine.batch.journal import claimed
from segrefine.batch.run import run_batch
from segrefine.serve.metrics import Metrics
from segrefine.storage import locked, staging_folder
place = Path(sys.argv[1])
with locked(place), staging_folder(place / "made") as folder:
    (folder / "file").write_text("whole")
    folder.rename(place / "made")
with claimed(place / "out", resume=True):
    pass
assert b"segrefine_peak_memory_bytes NaN" in Metrics().to_bytes()
print((place / "made/file").read_text(), *sorted(path.name for path in place.iterdir()))
"""


def imports_of(tree: ast.Module) -> Iterator[tuple[str, str, bool]]:
    """Module, name and whether it is for type checkers alone, of every import and every use `module.name`."""
    typed = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    hidden = {id(node) for branch in typed for node in ast.walk(branch)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name, id(node) in hidden) for alias in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr, id(node) in hidden


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_needs_more_than_python_3_10(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 10))
    newer = [
        f"{module}.{name}" for module, name, hidden in imports_of(tree) if name in NEWER.get(module, ()) and not hidden
    ]
    assert newer == []
    assert not any(
        isinstance(node, ast.Import) and {a.name for a in node.names} & {"tomllib"} for node in ast.walk(tree)
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_imports_what_windows_lacks(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    top = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    top += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not set(POSIX) & set(top)


def test_locks_and_folders_without_posix(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WINDOWS, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    content, *names = done.stdout.split()
    assert content == "whole" and "made" in names and not any("partial" in name for name in names)


def test_a_lock_keeps_others_out(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(BlockingIOError, match="another process"), locked(tmp_path, wait=False):
        pass
    with locked(tmp_path, wait=False):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_leftovers_go_and_living_writers_stay(tmp_path: Path) -> None:
    killed = tmp_path / ".made.partial-0123abcd"
    killed.mkdir()
    (killed / "half").write_text("")
    other = tmp_path / ".another.partial-0123abcd"
    other.mkdir()
    with staging_folder(tmp_path / "made") as living:
        with staging_folder(tmp_path / "made") as second:
            assert living.is_dir() and second.is_dir()
        assert living.is_dir() and not second.exists() and not killed.exists() and other.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == [other.name]


@pytest.mark.parametrize("place", ["missing/made", "file/made"])
def test_a_place_that_cannot_be_written_to(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"), staging_folder(tmp_path / place):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
