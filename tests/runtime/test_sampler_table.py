"""The one table of samplers: a sampler is one file and one line, and works through everything that takes one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from benchmarks.serve.process import running
from segrefine import Segmenter
from segrefine.assets import demo_gs_bundle, demo_samples
from segrefine.cli import main
from segrefine.client import Client
from segrefine.errors import SettingsError
from segrefine.runtime.files.mask import load_mask
from segrefine.runtime.segmentation import Segment
from segrefine.samplers import SAMPLERS
from segrefine.settings import GsSettings
from tests.datasets.benchmark_sets import narrative, write_narratives
from tests.runtime.toy_sampler import TOY

PROGRAM = "tests.runtime.toy_sampler"
"""The module that is segrefine with the toy: processes of its own know the toy too."""
IMAGE = demo_samples() / "images/02-car-erode.png"
CHOICES = [["--sampler", "toy"], ["--set", "sampler=toy"]]


@pytest.fixture
def expected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Segment]:
    """What Python gives with the toy, which is in the table."""
    monkeypatch.setitem(SAMPLERS, "toy", TOY)
    with Segmenter.from_bundle(demo_gs_bundle(), settings={"sampler": "toy"}, threads=1) as segment:
        found = segment(IMAGE, ["the car"]).segments[0]
        other = segment(IMAGE, ["the car"], settings={"sampler": "ddim", "steps": 3}).segments[0]
        assert (found.samples != other.samples).any()
        yield found


@pytest.fixture(scope="module")
def narratives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    told = [narrative(1, ("a fox", [1]), ("beside", ()), ("a car", [70_000]))]
    return write_narratives(tmp_path_factory.mktemp("data") / "png", told)


def read(*words: object) -> dict[str, Any]:
    """The JSON that a command prints in a process of its own, as one that starts processes needs it."""
    command = [sys.executable, "-m", PROGRAM, *map(str, words), "--bundle", "demo-gs", "--threads", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("words", CHOICES, ids=lambda words: words[0])
def test_segment(words: list[str], expected: Segment, tmp_path: Path) -> None:
    output = tmp_path / "labels.png"
    words = ["segment", str(IMAGE), "the car", "--bundle", "demo-gs", "-o", str(output), *words, "--json"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0 and json.loads(done.stdout)["settings"]["sampler"] == "toy", done.output
    np.testing.assert_array_equal(load_mask(output, expected.mask.shape) > 0, expected.mask)
    assert "toy" in CliRunner().invoke(main, ["segment", "--help"]).stdout


def test_serve_and_the_client(expected: Segment, tmp_path: Path) -> None:
    with running(tmp_path, "demo-gs", "--threads", "1", program=PROGRAM) as service:
        with Client(service.url) as client:
            mask: NDArray[np.bool_] = client.segment(IMAGE, ["the car"], settings={"sampler": "toy"}).segments[0].mask
        listed = service.http().get("/openapi.json").text
    np.testing.assert_array_equal(mask, expected.mask)
    assert '"toy"' in listed


def test_batch(narratives: Path, tmp_path: Path) -> None:
    values = read("batch", narratives, tmp_path / "out", "--zero-shot", "--workers", 1, "--set", "sampler=toy")
    assert values["done"] == 1 and values["options"]["settings"] == {"sampler": "toy"}


def test_bench(narratives: Path, tmp_path: Path) -> None:
    values = read("bench", "png", narratives, "-o", tmp_path / "out", "--workers", 1, "--set", "sampler=toy")
    assert values["settings"]["sampler"] == "toy" and not values["failures"]


def test_an_unknown_sampler_lists_what_there_is() -> None:
    with pytest.raises(SettingsError, match="sampler: expected one of ddim, dpm-solver, lcm; got 'toy'"):
        GsSettings(sampler="toy")
    done = CliRunner().invoke(main, ["segment", str(IMAGE), "the car", "--sampler", "toy"])
    assert done.exit_code == 2 and "'toy' is not one of ddim, dpm-solver, lcm" in done.stderr
