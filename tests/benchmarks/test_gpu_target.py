"""`make gpu`: one part that fails stops none of the others, and the whole fails in the end."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
ROOT = Path(__file__).parents[2]
PARTS = ["benchmarks.gpu.smoke", "pytest", "benchmarks.gpu.kernels", "benchmarks.gpu.engines"]


@pytest.mark.parametrize("failing", [[], [PARTS[0]], [PARTS[1]], PARTS], ids=len)
def test_every_part_runs(tmp_path: Path, failing: list[str]) -> None:
    python, log = tmp_path / "bin" / "python", tmp_path / "log"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$2" >> {log}\ncase " {" ".join(failing)} " in *" $2 "*) exit 1;; esac\n')
    python.chmod(0o755)
    command = ["make", "--no-print-directory", "gpu", f"GPU_ENV={tmp_path}", "GPU_STAMP="]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert log.read_text().split() == PARTS, "a part was left out"
    assert bool(done.returncode) == bool(failing)
    assert all(part in done.stderr for part in failing)
