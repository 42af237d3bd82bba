"""Masks in folders, in every notation, are read and go out in the same one; what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrefine.datasets.classes import VOC
from segrefine.datasets.items import read_image
from segrefine.datasets.label_maps import read_label_map
from segrefine.datasets.opening import open_data_set
from segrefine.errors import ImageError, MaskError
from segrefine.runtime.files.output import save_label_map
from tests.datasets.trial import CAR, FOX, SIZE, Result, masks_of, read_all, save, save_npy, write_again


def test_masks_of_one_object_each(folder, tmp_path):
    for name in ("a", "sub/a", "sub/b"):
        save(folder / "masks" / f"{name}.png", FOX.astype(np.uint8) * 255)
    (folder / "labels.json").write_text('{"a": "fox", "sub/a": "car", "sub/b": "fox"}')
    dataset = open_data_set(folder)
    assert dataset.title == "mask" and [item.name for item in dataset.items] == ["a", "sub/a", "sub/b"]
    [(label, mask)] = read_all(dataset, dataset.items[1])
    assert label == "car" and mask.dtype == np.float32
    write_again(dataset, tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/masks/sub/b.png")) > 0, FOX)


def test_label_maps_in_the_colours_of_voc(folder, tmp_path):
    indices = np.where(FOX, 7, np.where(CAR, 15, 0)).astype(np.uint8)
    indices[0] = 255  # the border that VOC leaves open
    for name in ("a", "sub/a", "sub/b"):
        (folder / "masks" / name).parent.mkdir(exist_ok=True)
        save_label_map(folder / "masks" / f"{name}.png", indices)
    dataset = open_data_set(folder)
    assert dataset.title == "label map"
    found = masks_of(dataset, dataset.items[0])
    assert set(found) == {"car", "person"} == {VOC.names[7], VOC.names[15]}
    np.testing.assert_array_equal(found["person"], CAR)
    write_again(dataset, tmp_path / "out")
    written = Image.open(tmp_path / "out/masks/sub/a.png")
    assert written.mode == "P" and written.getpalette()[3:6] == [128, 0, 0]
    np.testing.assert_array_equal(read_label_map(tmp_path / "out/masks/sub/a.png"), indices)


def test_three_hundred_classes(folder, tmp_path):
    (folder / "classes.json").write_text(json.dumps(["background", *(f"thing {i}" for i in range(1, 300))]))
    indices = np.where(FOX, 299, np.where(CAR, 255, 0)).astype(np.uint16)
    for name in ("a", "sub/a", "sub/b"):
        save(folder / "masks" / f"{name}.png", indices)
    dataset = open_data_set(folder)
    assert set(masks_of(dataset, dataset.items[0])) == {"thing 299", "thing 255"}
    write_again(dataset, tmp_path / "out")
    np.testing.assert_array_equal(read_label_map(tmp_path / "out/masks/a.png"), indices)


def test_folders_of_classes_hard_and_soft(folder, tmp_path):
    soft = np.linspace(0, 1, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
    for name in ("a", "sub/a", "sub/b"):
        save(folder / "masks/fox" / f"{name}.png", FOX.astype(np.uint8) * 255)
        save_npy(folder / "masks/car" / f"{name}.npy", soft)
        save(folder / "masks/tree" / f"{name}.png", (CAR * 40000 + FOX * 9000).astype(np.uint16))
        save(folder / "masks/boat" / f"{name}.png", np.zeros(SIZE, np.uint8))
    dataset = open_data_set(folder)
    assert dataset.title == "class folders"
    found = dict(read_all(dataset, dataset.items[2]))
    assert set(found) == {"fox", "car", "tree"}  # there is no boat
    np.testing.assert_allclose(found["car"], soft)
    assert found["tree"].max() == pytest.approx(40000 / 65535)
    write_again(dataset, tmp_path / "out")
    assert np.load(tmp_path / "out/masks/car/sub/b.npy").dtype == np.float32
    assert np.asarray(Image.open(tmp_path / "out/masks/tree/a.png")).dtype == np.uint16
    assert not np.asarray(Image.open(tmp_path / "out/masks/boat/a.png")).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: None, "there is no mask"),
        (lambda root: save(root / "masks/a.png", np.eye(9, dtype=np.uint8) * 255), "expected 32×24 pixels"),
        (lambda root: save(root / "masks/a.png", np.full(SIZE, 99, np.uint8)), "index 99, which has no name"),
        (lambda root: save(root / "masks/a.png", np.full((*SIZE, 3), (9, 80, 3), np.uint8)), "got colours"),
        (lambda root: (root / "masks/a.png").symlink_to("/proc/self/cmdline"), "leads out"),
        (lambda root: (root / "masks/a.png").write_bytes(b"\x89PNG damaged"), "no picture|damaged"),
    ],
)
def test_masks_that_do_not_serve_are_named(folder, change, message):
    change(folder)
    dataset = open_data_set(folder)
    with pytest.raises((MaskError, ImageError), match=message) as caught:
        read_all(dataset, dataset.items[0])
    assert caught.value.hint


def test_classes_that_are_nowhere_or_everywhere_stay_as_they_are(folder, tmp_path):
    faint, everything = np.full(SIZE, 0.4, np.float32), np.full(SIZE, 0.9, np.float32)
    for name in ("a", "sub/a", "sub/b"):
        save_npy(folder / "masks" / "faint" / f"{name}.npy", faint)
        save_npy(folder / "masks" / "sky" / f"{name}.npy", everything)
        save(folder / "masks" / "fox" / f"{name}.png", FOX.astype(np.uint8) * 255)
    dataset = open_data_set(folder)
    assert [list(masks_of(dataset, item)) for item in dataset.items] == [["fox"]] * 3
    write_again(dataset, tmp_path / "out")
    np.testing.assert_array_equal(np.load(tmp_path / "out/masks/faint/a.npy"), faint)
    np.testing.assert_array_equal(np.load(tmp_path / "out/masks/sky/sub/b.npy"), everything)
    save_npy(folder / "masks" / "faint" / "a.npy", np.full(SIZE, np.nan, np.float32))
    with pytest.raises(MaskError, match="expected probabilities from 0 to 1, got NaN"):
        read_all(dataset, dataset.items[0])


def test_a_label_map_of_one_class_stays_as_it_is(folder, tmp_path):
    (folder / "masks" / "sub").mkdir()
    for name, index in (("a", 7), ("sub/a", 7), ("sub/b", 255)):
        save_label_map(folder / "masks" / f"{name}.png", np.full(SIZE, index, np.uint16))
    dataset = open_data_set(folder)
    assert not any(masks_of(dataset, item) for item in dataset.items)
    write_again(dataset, tmp_path / "out")
    assert (read_label_map(tmp_path / "out/masks/a.png") == 7).all()
    assert (read_label_map(tmp_path / "out/masks/sub/b.png") == 255).all()


def test_images_that_do_not_serve_are_named(folder, tmp_path):
    secret = save(tmp_path / "secret.png", np.zeros((*SIZE, 3), np.uint8))
    (folder / "images/link.png").symlink_to(secret)
    save(folder / "images/a.bmp", np.zeros((*SIZE, 3), np.uint8))
    save(folder / "masks/a.png", np.where(FOX, 7, 3).astype(np.uint8))
    problems = {}
    for item in open_data_set(folder).items:
        try:
            read_image(item)
        except (ImageError, MaskError) as error:
            problems[item.name] = str(error)
    assert set(problems) == {"link", "a.bmp", "a.png"} and "leads out" in problems["link"]
    assert "a.bmp and a.png have one name" in problems["a.png"] == problems["a.bmp"]


def test_a_result_that_is_there_is_of_neither_of_two_images_with_one_name(folder, tmp_path):
    save(folder / "masks/a.png", np.where(FOX, 7, 3).astype(np.uint8))
    dataset = open_data_set(folder)
    dataset.write(dataset.items[0], {}, SIZE, tmp_path / "out")
    assert dataset.is_done(dataset.items[0], tmp_path / "out")
    save(folder / "images/a.bmp", np.zeros((*SIZE, 3), np.uint8))
    again = open_data_set(folder)
    assert [item.name for item in again.items] == ["a.bmp", "a.png", "sub/a", "sub/b"]
    assert not any(again.is_done(item, tmp_path / "out") for item in again.items[:2])


def test_folders_that_are_none(tmp_path, folder):
    with pytest.raises(MaskError, match="no folder"):
        open_data_set(tmp_path / "none")
    (folder / "classes.json").write_text('["background", "fox", "fox"]')
    with pytest.raises(MaskError, match="one name twice"):
        open_data_set(folder)
    (folder / "labels.json").write_text("{")
    with pytest.raises(MaskError, match="labels.json: it cannot be read as JSON"):
        open_data_set(folder)


@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_what_is_of_no_class_stays_so_where_no_label_claims_it(folder, tmp_path, suffix):
    indices = np.where(FOX, 7, np.where(CAR, 255, 0)).astype(np.uint8)
    save_label_map(folder / f"masks/a.{suffix}", indices)
    dataset, claimed = open_data_set(folder), FOX.copy()
    claimed[15:] = True  # of the open pixels of CAR the lower ones
    dataset.write(dataset.items[0], {"car": Result(claimed)}, SIZE, tmp_path / "out")
    written = read_label_map(tmp_path / f"out/masks/a.{suffix}")
    np.testing.assert_array_equal(written, np.where(claimed, 7, np.where(CAR, 255, 0)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_label_maps_in_arrays_stay_arrays(folder, tmp_path, dtype):
    indices = np.where(FOX, 7, np.where(CAR, 15, 0)).astype(dtype)
    for name in ("a", "sub/a", "sub/b"):
        save_npy(folder / "masks" / f"{name}.npy", indices if name != "sub/b" else np.full(SIZE, 7, dtype))
    write_again(open_data_set(folder), tmp_path / "out")
    for name, expected in (("a", indices), ("sub/b", np.full(SIZE, 7))):
        written = np.load(tmp_path / f"out/masks/{name}.npy")
        assert written.dtype == dtype
        np.testing.assert_array_equal(written, expected)


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        (np.full(SIZE, -1), "expected indices from 0 to 65535, got -1 to -1", "255 is of no class"),
        (np.full(SIZE, 2**32 + 7), "expected indices from 0 to 65535", "255 is of no class"),
        (np.full(SIZE, 0.7), "expected a label map of whole numbers", "labels.json says what it shows"),
    ],
)
def test_arrays_that_are_no_label_maps(folder, values, message, hint):
    save_npy(folder / "masks/a.npy", values)
    dataset = open_data_set(folder)
    with pytest.raises(MaskError, match=message) as caught:
        read_all(dataset, dataset.items[0])
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("a.png", FOX.astype(np.uint8) * 255),
        ("a.png", FOX),
        ("a.png", FOX.astype(np.uint8)),
        ("a.png", np.where(CAR, 255, FOX).astype(np.uint8)),
        ("a.png", FOX.astype(np.uint16)),
        ("a.npy", FOX.astype(np.int64)),
    ],
)
def test_masks_of_one_object_are_no_label_maps(folder, file, values):
    """Without labels.json they would be maps of nothing, or of aeroplanes."""
    (save if file == "a.png" else save_npy)(folder / "masks" / file, values)
    with pytest.raises(MaskError, match="holds only black and white, or 0 and 1") as caught:
        read_all(open_data_set(folder), open_data_set(folder).items[0])
    assert "labels.json says what masks show" in caught.value.hint
    (folder / "classes.json").write_text('["background", "fox"]')
    assert set(masks_of(open_data_set(folder), open_data_set(folder).items[0])) <= {"fox"}


def test_a_palette_says_that_it_is_a_label_map(folder):
    save_label_map(folder / "masks/a.png", np.where(CAR, 255, FOX))
    assert set(masks_of(open_data_set(folder), open_data_set(folder).items[0])) == {"aeroplane"}


@pytest.mark.parametrize("classes", [["banana", "fox"], {"0": "banana", "1": "fox"}])
def test_a_class_at_index_0_would_never_be_refined(folder, classes):
    (folder / "classes.json").write_text(json.dumps(classes))
    with pytest.raises(MaskError, match="has a class at index 0, 'banana', which is the background") as caught:
        open_data_set(folder)
    assert "from 1" in caught.value.hint


@pytest.mark.parametrize(
    "classes", [["_Background_", "fox"], ["UNLABELED", "fox"], [None, "fox"], {"0": None, "1": "fox"}, {"1": "fox"}]
)
def test_words_for_the_background(folder, classes):
    (folder / "classes.json").write_text(json.dumps(classes))
    save(folder / "masks/a.png", FOX.astype(np.uint8))
    assert set(masks_of(open_data_set(folder), open_data_set(folder).items[0])) == {"fox"}


def parts_of_a_data_set(folder: Path, *names: str) -> Path:
    for name in names:
        save(folder / "images" / f"{name}.png", np.full((*SIZE, 3), 90, np.uint8))
        (folder / "masks" / name).parent.mkdir(exist_ok=True)
        save_label_map(folder / "masks" / f"{name}.png", np.where(FOX, 7, 0))
    return folder


def test_folders_that_images_lie_in_too_are_no_classes(folder):
    for file in [*(folder / "images").rglob("*.png"), *(folder / "images").rglob("*.jpg")]:
        file.unlink()
    dataset = open_data_set(parts_of_a_data_set(folder, "train/a", "val/a"))
    assert dataset.title == "label map" and [item.name for item in dataset.items] == ["train/a", "val/a"]
    assert [set(masks_of(dataset, item)) for item in dataset.items] == [{"car"}] * 2
    save(folder / "masks/fox/a.png", FOX.astype(np.uint8) * 255)
    with pytest.raises(MaskError, match="masks/train is a part of the data set.* masks/fox has no such") as caught:
        open_data_set(folder)
    assert "labels.json or classes.json" in caught.value.hint
    (folder / "labels.json").write_text('{"train/a": "car", "val/a": "fox"}')
    assert open_data_set(folder).title == "mask"


def test_classes_of_images_in_parts_and_what_others_left(folder):
    save(folder / "masks/fox/sub/a.png", FOX.astype(np.uint8) * 255)
    for left_by_others in ("masks/.ipynb_checkpoints/sub/a", "images/.ipynb_checkpoints/a", "images/sub/._b"):
        save(folder / f"{left_by_others}.png", FOX.astype(np.uint8) * 255)
    dataset = open_data_set(folder)
    assert dataset.title == "class folders" and [item.name for item in dataset.items] == ["a", "sub/a", "sub/b"]
    assert set(masks_of(dataset, next(item for item in dataset.items if item.name == "sub/a"))) == {"fox"}


@pytest.mark.parametrize("below", ["", "fox/"])
def test_masks_without_an_image_and_linked_folders_are_listed(folder, tmp_path, below):
    for name in ("a.png", "sub/b.NPY", "c.PNG", "sub/c.npy", "other/a.png", ".hidden/d.png", "sub/._a.png"):
        (folder / "masks" / below / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "masks" / below / name).touch()
    save(folder / "images/a.bmp", np.zeros((*SIZE, 3), np.uint8))  # then a is of two images
    elsewhere = save(tmp_path / "elsewhere/e.png", np.zeros((*SIZE, 3), np.uint8)).parent
    for link in ("linked", "sub/linked", ".linked"):
        (folder / "images" / link).symlink_to(elsewhere)
    found = open_data_set(folder).pass_over()
    lone = ["c.PNG", "other/a.png", "sub/c.npy"]
    assert found.masks_without_image == [f"masks/{below}{name}" for name in lone]
    assert found.linked_folders == ["images/linked", "images/sub/linked"]


@pytest.mark.parametrize("below", ["", "fox/"])
@pytest.mark.parametrize("other", ["a.npy", "a.PNG"])
def test_two_masks_of_one_thing_are_named(folder, tmp_path, below, other):
    save(folder / "masks" / f"{below}a.png", FOX.astype(np.uint8) * 255)
    (folder / "masks" / (below + other)).touch()
    dataset = open_data_set(folder)
    first, *_ = dataset.items
    with pytest.raises(MaskError, match=f"masks/{below}a.png and {below}{other} have one name, and are both of a.png"):
        read_all(dataset, first)
    assert not dataset.is_done(first, tmp_path / "out")


def test_suffixes_in_capitals(folder, tmp_path):
    for name in ("a.png", "sub/b.jpg"):
        (folder / "images" / name).rename((folder / "images" / name).with_suffix(Path(name).suffix.upper()))
    for name in ("a.PNG", "sub/a.png"):
        save(folder / "masks" / name, FOX.astype(np.uint8) * 255)
    save_npy(folder / "masks/sub/b.npy", FOX * np.float32(0.8))
    (folder / "masks/sub/b.npy").rename(folder / "masks/sub/b.NPY")
    (folder / "labels.json").write_text('{"a": "fox", "sub/a": "car", "sub/b": "fox"}')
    dataset = open_data_set(folder)
    assert [list(masks_of(dataset, item)) for item in dataset.items] == [["fox"], ["car"], ["fox"]]
    write_again(dataset, tmp_path / "out")
    assert np.load(tmp_path / "out/masks/sub/b.NPY").dtype == np.float32
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/masks/a.PNG")) > 0, FOX)


@pytest.mark.parametrize(
    ("kind", "present", "message", "hint"),
    [
        ("", "b.png", "there is no mask for a.png", "expected masks/a.png or .npy"),
        ("", "a.JPG", "masks/a.JPG is no mask that can be read", "convert it"),
        ("fox/", "b.png", "there is no mask for a.png", "expected masks/CLASS/a.png or .npy"),
        ("fox/", "a.tif", "masks/fox/a.tif is no mask that can be read", "convert it"),
    ],
)
def test_why_there_is_no_mask(folder, kind, present, message, hint):
    save(folder / "masks" / (kind + present), FOX.astype(np.uint8) * 255)
    dataset = open_data_set(folder)
    with pytest.raises(MaskError, match=message) as caught:
        read_all(dataset, dataset.items[0])
    assert hint in caught.value.hint


def test_files_below_images_that_are_not_taken_are_told_by_reason(folder):
    for name in ("b.jxl", "sub/c.psd", "sub/d.JXL", "notes", ".DS_Store", ".hidden/e.png", "sub/._a.png"):
        (folder / "images" / name).parent.mkdir(exist_ok=True)
        (folder / "images" / name).touch()
    save(folder / "images/taken.png", np.zeros((*SIZE, 3), np.uint8)).rename(folder / "images/taken.jfif")
    dataset = open_data_set(folder)
    assert "taken" in [item.name for item in dataset.items]
    assert dataset.pass_over().not_taken == {
        ".jxl is not a format that is read": ["b.jxl", "sub/d.JXL"],
        ".psd is not a format that is read": ["sub/c.psd"],
        "hidden, with a dot in front of a name": [".DS_Store", ".hidden/e.png", "sub/._a.png"],
        "without a suffix": ["notes"],
    }
