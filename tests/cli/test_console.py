"""What a command says, and where it says it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from segrefine.cli.console import Console

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("stream", [False, True], ids=["json", "mask"])
def test_full_stdout_is_one_clear_line(scene, stream):
    image, mask, label = scene
    words = ["refine", image, mask, "--label", label, "-o", "-"] if stream else ["inspect", "demo", "--json"]
    with FULL.open("w") as full:
        command = [sys.executable, "-m", "segrefine.cli", *map(str, words)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error == "error: cannot write the result to stdout: No space left on device"
    assert hint.startswith("hint: free some space")


def test_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m segrefine.cli inspect demo --json | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(("long", "verbose", "told"), [(True, False, True), (False, True, True), (False, False, False)])
def test_each_stage_is_told_once_without_a_terminal(capsys, long, verbose, told):
    with Console(verbose=verbose).progress("exporting demo", long=long) as tell:
        for stage in ("unet", "unet", "alignment"):
            tell(stage, None)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == (["exporting demo: unet", "exporting demo: alignment"] if told else [])
