"""`demo` writes a folder of its own, and into no other."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from segrefine.assets import PHOTO_LABELS


def test_demo_writes_sheet_and_table_and_can_be_run_again(run, tmp_path):
    folder = tmp_path / "demo-out"
    result = run("demo", "--output", folder, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    for name, count in (("photographs", 8), ("scenes", 12)):
        kind = summary[name]
        assert len(kind["samples"]) == count and Image.open(kind["sheet"]).width > 900
        assert 0 < kind["mean_iou_before"] < kind["mean_iou_after"]
        assert all(each["iou_after"] > each["iou_before"] - 0.02 for each in kind["samples"])
    assert Image.open(summary["segments_sheet"]).width > 900
    known = [each["label"] for each in summary["photographs"]["samples"] if each["label"] in PHOTO_LABELS]
    assert [entry["phrase"] for entry in summary["segments"]] == [f"the {label}" for label in known]
    assert len(known) == 7 and all(entry["iou"] > 0.2 for entry in summary["segments"])
    masks = sorted((folder / "masks").iterdir())
    assert len(masks) == 20
    masks[0].with_name(f".{masks[0].name}.0a1b2c3d.partial").touch()  # as a demo that was killed leaves it
    masks[0].unlink()
    result = run("demo", "--output", folder)
    assert result.exit_code == 0, result.output
    assert masks[0].exists()


def test_a_wheel_has_photographs_alone(run, tmp_path, monkeypatch):
    monkeypatch.setattr("segrefine.assets.SHIPPED_BUNDLES", {})  # a wheel is without the model of the scenes
    result = run("demo", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert "photographs.png" in result.stdout and "sheet.png" not in result.stdout
    assert not (tmp_path / "sheet.png").exists() and len(list((tmp_path / "masks").iterdir())) == 8


def test_demo_takes_an_empty_folder_alone(fails, tmp_path):
    for file in ("notes.txt", "masks/mine.png", "photos/sheet.png"):
        folder = tmp_path / Path(file).name
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text("mine")
        before = sorted(folder.rglob("*"))
        assert file.partition("/")[0] in fails("demo", "--output", folder)
        assert sorted(folder.rglob("*")) == before and (folder / file).read_text() == "mine"


def test_demo_does_not_take_a_file_for_a_folder(fails, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert "cannot write" in fails("demo", "--output", tmp_path / "out")
