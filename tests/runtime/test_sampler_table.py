"""The one table of samplers: a sampler is one file and one line, and works through everything that takes one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from segrefine import Segmenter
from segrefine.assets import demo_gs_bundle, demo_samples
from segrefine.cli import main
from segrefine.errors import SettingsError
from segrefine.runtime.files.mask import load_mask
from segrefine.samplers import SAMPLERS
from segrefine.serve.app import create_app
from segrefine.serve.models import SegmentModel, Served
from segrefine.settings import GsSettings
from tests.runtime.toy_sampler import TOY

IMAGE = demo_samples() / "images/02-car-erode.png"


def test_a_toy_sampler_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMPLERS, "toy", TOY)
    with Segmenter.from_bundle(demo_gs_bundle(), settings={"sampler": "toy"}) as segment:
        expected = segment(IMAGE, ["the car"]).segments[0]
        other = segment(IMAGE, ["the car"], settings={"sampler": "ddim", "steps": 3}).segments[0]
        assert (expected.samples != other.samples).any()
        served = Served(name="demo-gs", backend="onnxruntime", device="cpu", precision="fp32", shipped="demo-gs")
        with TestClient(create_app([SegmentModel(segment, served)])) as client:
            while client.get("/v2/health/ready").status_code != 200:
                time.sleep(0.05)
            data = {"phrases": "the car", "sampler": "toy", "format": "rle"}
            answer = client.post("/v1/segment", data=data, files={"image": IMAGE.read_bytes()})
            assert answer.status_code == 200, answer.text
            listed = client.get("/openapi.json").text
    assert answer.json()["segments"][0]["mask"]["counts"] == expected.rle["counts"] and '"toy"' in listed
    for words in (["--sampler", "toy"], ["--set", "sampler=toy"]):
        output = tmp_path / "labels.png"
        done = CliRunner().invoke(
            main, ["segment", str(IMAGE), "the car", "--bundle", "demo-gs", "-o", str(output), *words, "--json"]
        )
        assert done.exit_code == 0 and json.loads(done.stdout)["settings"]["sampler"] == "toy", done.output
        np.testing.assert_array_equal(load_mask(output, expected.mask.shape) > 0, expected.mask)
    assert "toy" in CliRunner().invoke(main, ["segment", "--help"]).stdout


def test_an_unknown_sampler_lists_what_there_is() -> None:
    with pytest.raises(SettingsError, match="sampler: expected one of ddim, dpm-solver, lcm; got 'toy'"):
        GsSettings(sampler="toy")
    done = CliRunner().invoke(main, ["segment", str(IMAGE), "the car", "--sampler", "toy"])
    assert done.exit_code == 2 and "'toy' is not one of ddim, dpm-solver, lcm" in done.stderr
