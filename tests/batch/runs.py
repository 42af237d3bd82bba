"""Batches run by the command line, in this process or in one of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from click.testing import CliRunner, Result

from segrefine.batch.journal import JOURNAL
from segrefine.cli import main

SETTINGS = ["--threads", "1"]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in with_demo(*words)])


def with_demo(*words: object) -> list[object]:
    """A command with the demo model, which knows the scenes, unless it names another one."""
    return [*words] if "--bundle" in words else [*words, "--bundle", "demo"]


def refine(source: Path, output: Path, *words: object, fails: bool = False) -> dict:
    result = run("batch", source, output, *SETTINGS, "--json", *words)
    assert result.exit_code == int(fails), result.output
    return json.loads(result.stdout)


def results(output: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every result: those of a file that was written again are others."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (output / "masks").rglob("*.png")}


def start(source: Path, output: Path, *words: str, **extra) -> subprocess.Popen:
    command = [sys.executable, "-m", "segrefine.cli", "batch", str(source), str(output), "--json", *SETTINGS, *words]
    return subprocess.Popen(
        [str(word) for word in with_demo(*command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **extra
    )


def await_lines(output: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (output / JOURNAL).exists() and (output / JOURNAL).read_text().count("\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"fewer than {count} images in two minutes")


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def first_child(process: subprocess.Popen) -> int | None:
    """A worker of a run, as soon as there is one; None where the run ended."""
    while process.poll() is None:
        try:
            return children(process.pid)[0]
        except (IndexError, OSError):
            time.sleep(0.01)
    return None
