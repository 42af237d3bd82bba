"""`segrefine tune`, and what other commands say of a bundle that nobody tuned."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from segrefine.assets import demo_bundle, demo_gs_bundle
from segrefine.runtime.guard import free_guard
from segrefine.settings import G4SegSettings
from segrefine.tuning.bundle_fit import write_fit
from segrefine.tuning.tune import _note
from tests.tuning.labelled import copy_bundle, write_scenes


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data") / "d", 10)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return copy_bundle(tmp_path / "b")


def warnings(result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("warning: ")]


def test_labels_that_are_not_known_gain_nothing(run, tmp_path) -> None:
    bundle = copy_bundle(tmp_path / "b", effect_range=(1e6, 2e6))  # no label changes the prediction that much
    unknown = write_scenes(tmp_path / "d", 10, label="qqq")
    before = (bundle / "segrefine.json").read_bytes()
    words = "tune", unknown, unknown / "truth", "--bundle", bundle, "-o", tmp_path / "out", "--threads", 1
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert "nothing was gained: the model cannot tell these labels apart" in done.stdout
    assert f"{bundle} is as it was" in done.stdout and (bundle / "segrefine.json").read_bytes() == before
    again = json.loads(run(*words, "--resume", "--json").stdout)
    assert (again["gained"], again["written"], len(again["fit_images"])) == (False, False, 6)
    assert json.loads((tmp_path / "out/report.json").read_text()) == again


def test_what_is_given_is_checked(run, fails, tmp_path, bundle, data) -> None:
    few = write_scenes(tmp_path / "few", 9)
    out = "-o", tmp_path / "out"
    assert run("tune", data, data / "truth", *out).exit_code == 2
    assert "9 images" in fails("tune", few, few / "truth", "--bundle", bundle, *out)
    assert "compared with themselves" in fails("tune", data, data / "masks", "--bundle", bundle, *out)
    assert "generates masks" in fails("tune", data, data / "truth", "--bundle", demo_gs_bundle(), *out)
    for shipped in ("demo", demo_bundle()):
        assert "ships with segrefine" in fails("tune", data, data / "truth", "--bundle", shipped, *out)
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    assert "not empty" in fails("tune", data, data / "truth", "--bundle", bundle, "-o", tmp_path / "full")
    assert run("tune", data, data / "truth", "--bundle", bundle, "-o", data / "masks/out").exit_code == 2


def test_a_bundle_that_nobody_tuned_is_said_once_with_the_command(run, tmp_path, bundle, scene) -> None:
    image, mask, label = scene
    words = "refine", image, mask, "--label", label, "-o", tmp_path / "m.png", "--threads", 1, "--bundle"
    [line] = warnings(run(*words, bundle))
    assert f"`segrefine tune DATA TRUTH --bundle {bundle}`" in line and "not fitted to this model" in line
    few = write_scenes(tmp_path / "few", 2)
    batch = "batch", few, tmp_path / "out", "--workers", 1, "--bundle", bundle
    assert [each for each in warnings(run(*batch)) if "not fitted" in each] == [line]
    assert not warnings(run(*words, "demo"))
    write_fit(bundle, G4SegSettings.preset("fast"), free_guard())
    assert not warnings(run(*words, bundle))


def test_inspect_shows_what_settings_and_guard_were_fitted_to(run, bundle) -> None:
    done = run("inspect", bundle)
    assert f"`segrefine tune DATA TRUTH --bundle {bundle}`" in done.stdout
    assert json.loads(run("inspect", bundle, "--json").stdout)["guard"] is None
    about = {"date": "2026-11-29", "images": 24, "denoiser": "0" * 64, "after": {"iou": 0.81, "masks": 20}}
    write_fit(bundle, G4SegSettings(), _note(free_guard(), about))
    done = run("inspect", bundle)
    assert done.exit_code == 0
    for part in ("date: 2026-11-29", "images: 24", "after: iou 0.81, masks 20", "has another denoiser"):
        assert part in done.stdout
    assert "settings were fitted to" in done.stdout and "the guard is the one that ships with segrefine" in done.stdout
    values = json.loads(run("inspect", bundle, "--json").stdout)
    assert (values["guard"], values["guard_fitted"]) == (about, False)
    write_fit(bundle, G4SegSettings(), replace(free_guard(), threshold=0.7, about=about))
    done = run("inspect", bundle)
    assert "settings and guard were fitted to" in done.stdout and "ships with" not in done.stdout
    assert json.loads(run("inspect", bundle, "--json").stdout)["guard_fitted"] is True
    (bundle / "guard.json").write_text("{}")
    damaged = run("inspect", bundle)
    assert damaged.exit_code == 1 and "guard.json" in damaged.stderr


def test_inspect_says_nothing_of_a_fit_for_a_bundle_that_segments(run, tmp_path) -> None:
    shutil.copytree(demo_gs_bundle(), tmp_path / "gs")
    assert "fitted" not in run("inspect", tmp_path / "gs").stdout
