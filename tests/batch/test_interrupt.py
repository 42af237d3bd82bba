"""Ctrl-C, as a terminal sends it: to the run and to all of its processes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.batch.copies import copies
from tests.batch.runs import await_lines, first_child, results, start


@pytest.mark.parametrize("early", [True, False])
def test_what_is_finished_is_kept_and_the_hint_says_how_to_go_on(scenes, tmp_path, early):
    source, output = copies(scenes, 6), tmp_path / "out put"
    process = start(source, output, "--workers", "2", start_new_session=True)
    worker = first_child(process)
    if not early:
        await_lines(output, 2)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and not stdout and "Traceback" not in stderr, stderr
    assert not Path(f"/proc/{worker}").exists() and not list(output.rglob("*.partial"))
    error, hint = stderr.splitlines()[-2:]
    before = results(output)
    assert error == "error: interrupted" and len(before) >= 2 * (not early)
    said, command = hint.split("to go on: ")
    assert said == "hint: what is finished is kept; "
    *program, name = shlex.split(command)[: shlex.split(command).index("batch") + 1]
    words = shlex.split(command)[len(program) :]
    assert program[-1].endswith("segrefine.cli") and name == "batch" and words[-1] == "--resume"
    done = subprocess.run([sys.executable, "-m", "segrefine.cli", *words], capture_output=True, text=True, check=True)
    values = json.loads(done.stdout)
    assert (values["done"], values["resumed"]) == (6, len(before)) and before.items() <= results(output).items()
