"""`segrefine eval` against measures computed by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from segrefine.runtime.files.output import save_label_map


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
    assert run("samples", tmp_path / "scenes", "--kind", "scenes").exit_code == 0
    done = run("eval", tmp_path / "scenes" / "masks", tmp_path / "scenes", "--json")
    values = json.loads(done.stdout)
    assert values["count"] == 12 and values["miou"] is not None
    assert 0.4 < values["iou"] < 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda predicted, truth: (predicted / "a.png").unlink(), "no mask 'a'"),
        (lambda predicted, truth: [(predicted / f"{n}.png").write_bytes(b"x") for n in "abcd"], "none of 4 images can"),
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


@pytest.mark.parametrize(
    ("side", "spoil", "error", "message"),
    [
        (0, lambda file: file.write_bytes(b"x"), "ImageError", "a.png"),
        (1, lambda file: file.write_bytes(file.read_bytes()[:60]), "ImageError", "a.png"),
        (0, lambda file: Image.new("L", (3, 3)).save(file), "MaskError", "the predicted and the true mask are 3×3 and"),
        (1, lambda file: Image.new("RGB", (10, 10), "red").save(file), "MaskError", "got colours"),
    ],
)
def test_a_mask_that_cannot_be_compared_is_told_and_the_rest_goes_on(run, folders, side, spoil, error, message):
    spoil(folders[side] / "a.png")
    done = run("eval", *folders, "--json")
    values = json.loads(done.stdout)
    assert done.exit_code == 1 and values["images"] == values["count"] == 3
    assert values["iou"] == pytest.approx(2 / 3)
    [unread] = values["unread"]
    assert unread["name"] == "a" and unread["error"] == error and message in unread["message"] and unread["hint"]
    assert done.stderr.count("warning: ") == 1 and f"a is left out: {unread['message']}" in done.stderr
    shown = run("eval", *folders)
    assert shown.exit_code == 1 and "3 of 4: 1 could not be read" in shown.stdout


def test_the_notation_is_told(run, folders):
    assert "notation    a mask for each image" in run("eval", *folders).stdout


def test_grey_label_maps_and_parts_of_a_data_set(run, tmp_path):
    """VOC's augmented label maps are grey; train and val are no classes."""
    for place, width in (("predicted", 4), ("truth", 5)):
        for part, index in (("train", 3), ("val", 1)):
            indices = np.zeros((10, 10), np.uint8)
            indices[:, :width], indices[0] = index, 255
            (tmp_path / place / part).mkdir(parents=True)
            Image.fromarray(indices).save(tmp_path / place / part / "one.png")
    values = json.loads(run("eval", tmp_path / "predicted", tmp_path / "truth", "--json").stdout)
    assert values["notation"] == "label map" and set(values["iou_of_classes"]) == {"aeroplane", "background", "bird"}
    assert values["iou_of_classes"]["bird"] == pytest.approx(0.8)


def test_parts_of_a_data_set_are_no_classes(run, tmp_path):
    for place in ("predicted", "truth"):
        for part in ("train", "val"):
            (tmp_path / place).mkdir(exist_ok=True)
            write(tmp_path / place / part, a=4)
    values = json.loads(run("eval", tmp_path / "predicted", tmp_path / "truth", "--json").stdout)
    assert values["notation"] == "mask" and [each["name"] for each in values["masks"]] == ["train/a", "val/a"]
    (tmp_path / "images/other").mkdir(parents=True)  # the images are not in parts, so these are classes
    values = json.loads(run("eval", tmp_path / "predicted", tmp_path / "truth", "--json").stdout)
    assert values["notation"] == "class folders" and set(values["iou_of_classes"]) == {"train", "val"}


def test_a_first_file_that_is_damaged_does_not_hide_the_notation(run, tmp_path):
    for place in ("predicted", "truth"):
        for name in ("one", "two"):
            (tmp_path / place).mkdir(exist_ok=True)
            save_label_map(tmp_path / place / f"{name}.png", np.full((10, 10), 3))
    (tmp_path / "truth/one.png").write_bytes(b"x")
    values = json.loads(run("eval", tmp_path / "predicted", tmp_path / "truth", "--json").stdout)
    assert values["notation"] == "label map" and [each["name"] for each in values["unread"]] == ["one"]


@pytest.mark.parametrize("spoil", [lambda file: file.unlink(), lambda file: Image.new("RGB", (3, 3)).save(file)])
def test_an_image_that_cannot_be_shown_gives_its_place_to_the_next(run, folders, tmp_path, spoil):
    (tmp_path / "images").mkdir()
    for name in "abcd":
        Image.new("RGB", (10, 10), "grey").save(tmp_path / "images" / f"{name}.png")
    spoil(tmp_path / "images/b.png")
    done = run("eval", *folders, "--sheet", tmp_path / "sheet.png", "--json", "--cases", "2")
    assert done.exit_code == 1 and "b is not on the sheet: " in done.stderr
    assert json.loads(done.stdout)["count"] == 4 and Image.open(tmp_path / "sheet.png").height > 2 * 192
