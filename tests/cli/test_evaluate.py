"""`segrefine eval` against measures computed by hand."""

import json

import numpy as np
import pytest
from PIL import Image


def write(folder, **masks):
    folder.mkdir(exist_ok=True)
    for name, columns in masks.items():
        mask = np.zeros((10, 10), np.uint8)
        mask[:, :columns] = 255
        Image.fromarray(mask).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def folders(tmp_path):
    """Masks of so many columns: IoU 0.5, 1, 0 and, where both are empty, 1."""
    return write(tmp_path / "predicted", a=2, b=6, c=0, d=0), write(tmp_path / "truth", a=4, b=6, c=5, d=0)


def test_measures(run, folders, tmp_path):
    (tmp_path / "labels.json").write_text('{"a": "fox", "b": "fox", "c": "car", "d": "car"}')
    groups = tmp_path / "groups.json"
    groups.write_text('{"a": ["singulars", "things"], "b": ["singulars"], "c": ["plurals", "things"], "d": []}')
    done = run("eval", *folders, "--groups", groups, "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["count"] == 4
    assert values["iou"] == pytest.approx(2.5 / 4)
    assert values["iou_of_classes"] == {"car": 0.0, "fox": pytest.approx(80 / 100)}  # (20 + 60) of (40 + 60) pixels
    assert values["miou"] == pytest.approx(0.4)
    assert values["average_recall"] == {
        "overall": pytest.approx(2.5 / 4),
        "singulars": pytest.approx(0.75),
        "things": pytest.approx(0.25),
        "plurals": 0.0,
    }
    assert [entry["name"] for entry in values["masks"]] == ["a", "b", "c", "d"]


def test_shown_as_a_table(run, folders):
    done = run("eval", *folders)
    assert "IoU, mean over masks" in done.stdout and "0.625" in done.stdout
    assert "mIoU" not in done.stdout  # nobody said what the masks show


def test_reads_what_samples_and_demo_write(run, tmp_path):
    assert run("samples", tmp_path / "scenes").exit_code == 0
    done = run("eval", tmp_path / "scenes" / "masks", tmp_path / "scenes", "--json")
    values = json.loads(done.stdout)
    assert values["count"] == 12 and values["miou"] is not None
    assert 0.4 < values["iou"] < 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda predicted, truth: (predicted / "a.png").unlink(), "no mask 'a'"),
        (lambda predicted, truth: Image.new("L", (3, 3)).save(predicted / "a.png"), "3×3 and 10×10"),
        (lambda predicted, truth: (predicted / "a.png").write_bytes(b"x"), "a.png"),
        (lambda predicted, truth: [file.unlink() for file in truth.iterdir()], "no mask in"),
        (lambda predicted, truth: (truth / "labels.json").write_text('{"a": "fox"}'), "says nothing of 'b'"),
        (lambda predicted, truth: (truth / "labels.json").write_text("[]"), "no JSON object"),
        (lambda predicted, truth: (truth / "labels.json").write_text('{"a": 1, "b": "", "c": "", "d": ""}'), "a text"),
        (lambda predicted, truth: np.save(predicted / "a.npy", np.zeros((10, 10))), "have one name"),
    ],
)
def test_bad_input(fails, folders, change, message):
    change(*folders)
    assert message in fails("eval", *folders)


@pytest.mark.parametrize("entry", ['"things"', "null", "[1]"])
def test_groups_are_lists_of_texts(fails, folders, tmp_path, entry):
    (tmp_path / "groups.json").write_text(f'{{"a": {entry}, "b": [], "c": [], "d": []}}')
    assert "expected a list of texts for 'a'" in fails("eval", *folders, "--groups", tmp_path / "groups.json")


def test_a_group_may_be_called_overall(run, folders, tmp_path):
    (tmp_path / "groups.json").write_text('{"a": ["overall"], "b": ["overall"], "c": [], "d": []}')
    values = json.loads(run("eval", *folders, "--groups", tmp_path / "groups.json", "--json").stdout)
    assert values["iou"] == values["average_recall"]["overall"] == pytest.approx(2.5 / 4)


def test_suffixes_of_any_case_and_what_has_no_partner(run, folders):
    for folder in folders:
        (folder / "a.png").rename(folder / "a.PNG")
    write(folders[0], extra=3)
    done = run("eval", *folders, "--json")
    assert json.loads(done.stdout)["count"] == 4
    assert "extra in " in done.stderr and "no true mask" in done.stderr
