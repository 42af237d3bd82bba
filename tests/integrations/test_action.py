"""The GitHub Action: its description, and its script as a runner executes it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = {step.get("name"): step for step in ACTION["runs"]["steps"]}


def run_compare(folder: Path, **inputs: str) -> tuple[int, dict[str, str], str]:
    """Run the step as a runner does: exit code, outputs, and the summary."""
    values = {name: str(each.get("default", "")) for name, each in ACTION["inputs"].items()} | inputs
    variables = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: values[match[1]], text)
        for name, text in STEPS["Compare"]["env"].items()
    }
    files = {"GITHUB_OUTPUT": folder / "output", "GITHUB_STEP_SUMMARY": folder / "summary"}
    for file in files.values():
        file.touch()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **variables, **{k: str(v) for k, v in files.items()}, "PATH": path,
                   "RUNNER_TEMP": str(folder), "PYTHONPATH": str(ROOT)}  # fmt: skip
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS["Compare"]["run"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
    return done.returncode, outputs, files["GITHUB_STEP_SUMMARY"].read_text() + done.stderr


def test_every_input_is_described_and_none_is_put_into_a_script():
    assert ACTION["runs"]["using"] == "composite"
    used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text().partition("runs:")[2]))
    assert used == ACTION["inputs"].keys()
    for step in STEPS.values():
        assert "${{" not in step.get("run", ""), "an input in a script could run anything"


def test_the_example_gives_inputs_that_there_are():
    workflow: dict[str, Any] = yaml.safe_load((ROOT / "integrations/github/parity.yml").read_text())
    [step] = [each for each in workflow["jobs"]["parity"]["steps"] if "segrefine" in each.get("uses", "")]
    assert step["with"].keys() <= ACTION["inputs"].keys()
    required = {name for name, each in ACTION["inputs"].items() if each.get("required")}
    assert required <= step["with"].keys()


def test_a_bundle_that_is_not_there_fails_the_step_in_words(tmp_path):
    status, outputs, told = run_compare(tmp_path, bundle=str(tmp_path / "no bundle; echo x"), reference="demo")
    assert status == 1 and outputs["ok"] == "false" and "error: " in told and "no bundle; echo x" in told


@pytest.mark.slow
def test_the_demo_bundle_passes_and_the_report_is_json(tmp_path):
    status, outputs, told = run_compare(tmp_path, bundle="demo", reference="demo")
    assert status == 0 and outputs["ok"] == "true" and "segrefine parity: true" in told
    assert json.loads(Path(outputs["report"]).read_text())["ok"]
