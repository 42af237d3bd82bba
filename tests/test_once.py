from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from tests.once import made_once

def make(folder):
    folder.mkdir()
    (folder / "file").write_text("half")
    print("making", flush=True)
    time.sleep(float(sys.argv[2]))
    (folder / "file").write_text("whole")

print("ready", flush=True)
sys.stdin.readline()
run = SimpleNamespace(getbasetemp=lambda: Path(sys.argv[1]) / "own")
print((made_once(run, "thing", make) / "file").read_text(), flush=True)
"""


def start(folder: Path, seconds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, str(folder), str(seconds)]
    root = Path(__file__).parent.parent
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    expect(process, "ready")
    return process


def expect(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout and process.stdout.readline() == f"{line}\n"


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def test_what_a_killed_process_was_making_is_made_by_one_of_those_that_wait(tmp_path: Path) -> None:
    first, *others = start(tmp_path, 600), start(tmp_path, 2), start(tmp_path, 2)
    go(first)
    expect(first, "making")
    for each in others:
        go(each)
    first.kill()
    first.communicate()
    told = [each.communicate()[0].split() for each in others]
    assert sorted(told) == [["making", "whole"], ["whole"]]
