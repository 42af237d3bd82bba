"""Settings varied one at a time on real scenes: runs, tables, plots, and going on after a stop."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from segrefine.assets import demo_samples
from segrefine.cli import main
from segrefine.errors import SettingsError
from segrefine.evaluation.axes import AXES, plan_variants
from segrefine.settings import G4SegSettings


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes with their truth."""
    folder = tmp_path_factory.mktemp("sweep") / "scenes"
    labels = {"02-car-erode": "car", "03-cactus-shift": "cactus"}
    for kind in ("images", "masks", "truth"):
        (folder / kind).mkdir(parents=True)
        for name in labels:
            shutil.copy(demo_samples() / kind / f"{name}.png", folder / kind)
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder


VARY = ("--vary", "mixing=0.5,1", "--vary", "text_weight=8", "--workers", "1", "--threads", "1",
        "--bundle", "demo")  # fmt: skip


def test_a_sweep_and_what_it_writes(scenes, tmp_path):
    output = tmp_path / "out"
    done = run("sweep", scenes, scenes, output, *VARY, "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    found = [(row["setting"], row["value"], row["is_default"]) for row in values["rows"]]
    assert found == [
        ("mixing", 0.5, False),
        ("mixing", 1.0, True),
        ("text_weight", 4.0, True),
        ("text_weight", 8, False),
    ]
    assert sorted(path.name for path in (output / "runs").iterdir()) == ["default", "mixing=0.5", "text_weight=8"]
    half, default, again, _ = values["rows"]
    assert default["change"] == again["change"] == 0 and half["change"] != 0
    assert half["iou"] - default["iou"] == pytest.approx(half["change"])
    judged = run("eval", output / "runs" / "mixing=0.5", scenes, "--coarse", scenes, "--json")
    judged_values = json.loads(judged.stdout)
    assert judged_values["iou"] == half["iou"] and judged_values["before"]["iou"] == values["before"]["iou"]
    rows = list(csv.DictReader((output / "sweep.csv").open()))
    assert [float(row["iou"]) for row in rows] == [row["iou"] for row in values["rows"]]
    assert (output / "sweep.md").read_text().count("\n") == 2 + 4
    plot = np.asarray(Image.open(output / "sweep.png"))
    assert plot.shape[1] == 2 * 300 and (np.abs(plot.astype(int) - (255, 122, 26)).sum(-1) < 30).sum() > 100

    files = {path: path.stat().st_mtime_ns for path in output.rglob("masks/*.png")}
    (output / "runs/mixing=0.5/masks/02-car-erode.png").unlink()
    shown = run("sweep", scenes, scenes, output, *VARY, "--resume", "--workers", 2)
    assert shown.exit_code == 0 and "1 *" in shown.stdout, shown.output
    changed = {path.name for path, time in files.items() if path.stat().st_mtime_ns != time}
    assert changed == {"02-car-erode.png"}
    other = run("sweep", scenes, scenes, output, *VARY, "--resume", "--seed", 1)
    assert other.exit_code == 1 and "other options" in other.stderr


def test_a_true_mask_that_cannot_be_read_counts_as_failed(scenes, tmp_path):
    truth = tmp_path / "truth"
    shutil.copytree(scenes / "truth", truth)
    (truth / "03-cactus-shift.png").write_bytes(b"no picture")
    alone = ("--vary", "mixing=1", "--workers", "1", "--threads", "1", "--json")
    done = run("sweep", scenes, truth, tmp_path / "out", *alone)
    values = json.loads(done.stdout)
    assert done.exit_code == 1, done.output
    assert [row["failed"] for row in values["rows"]] == [1]
    assert "1 of the images failed" in done.stderr


def test_what_stands_in_the_way(scenes, tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    cases = [
        ((tmp_path,), "is not empty"),
        ((tmp_path / "out", "--vary", "nonsense=1"), "nothing called 'nonsense'"),
        ((tmp_path / "out", "--vary", "noise=5000"), "5000"),
        ((tmp_path / "out", "--vary", "mixing=7"), "mixing"),
        ((tmp_path / "out", "--vary", "text_weight"), "expected values"),
    ]
    for words, message in cases:
        done = run("sweep", scenes, scenes, *words)
        assert done.exit_code == 1 and message in done.stderr and "unexpected" not in done.stderr, done.output
    assert run("sweep", scenes, scenes, tmp_path / "out", "--vary", "mixing=a").exit_code == 2
    assert not (tmp_path / "out").exists()
    done = run("sweep", scenes, scenes / "masks", tmp_path / "out")
    assert done.exit_code == 1 and "with themselves" in done.stderr


def test_the_axes_change_what_they_say():
    base = G4SegSettings()
    changed = {name: axis.change(base, axis.values[1]) for name, axis in AXES.items()}
    assert (changed["injection"].self_strength, changed["injection"].cross_strength) == (3.0, 3.0)
    assert changed["mixing"].mixing == 0.5 and changed["confusion"].confusion == (0.2,)
    assert changed["rounds"].timesteps == (350, 175) and changed["rounds"].confusion == (1.0, 1.0)
    assert AXES["noise"].change(changed["rounds"], 500).timesteps == (500, 250)
    assert all(axis.read(changed[name]) == axis.values[1] for name, axis in AXES.items())


def test_every_axis_has_the_default_among_its_values():
    variants = plan_variants(G4SegSettings(), [(name, ()) for name in AXES])
    for name in AXES:
        assert sum(variant.is_default for variant in variants if variant.axis == name) == 1
    with pytest.raises(SettingsError, match="whole numbers"):
        plan_variants(G4SegSettings(), [("rounds", (1.5,))])
    with pytest.raises(SettingsError, match="expected finite numbers, got nan"):
        plan_variants(G4SegSettings(), [("noise", (float("nan"),))])
    with pytest.raises(SettingsError, match="whole numbers"):
        plan_variants(G4SegSettings(), [("noises", (1.5,))])
