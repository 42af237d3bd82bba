"""LabelMe's JSON: read as LabelMe draws it, refined, and written as shapes that LabelMe reads again."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from segrefine.datasets.labelme import draw_shape
from segrefine.datasets.notation import ReadingOptions
from segrefine.datasets.opening import open_data_set
from segrefine.errors import MaskError
from segrefine.runtime.files.mask import CoarseMask
from tests.datasets.trial import CAR, FOX, SIZE, Result, read, save, write_again
from tests.examples import examples


def shape(label: str, points: object, kind: str = "polygon", **more) -> dict:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | more


def box_of(mask: np.ndarray) -> list:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return [[int(columns[0]), int(rows[0])], [int(columns[-1]), int(rows[-1])]]


def mask_shape(label: str, mask: np.ndarray, **more) -> dict:
    (left, top), (right, bottom) = box_of(mask)
    buffer = io.BytesIO()
    Image.fromarray(mask[top : bottom + 1, left : right + 1]).save(buffer, "PNG")
    return shape(label, box_of(mask), "mask", mask=base64.b64encode(buffer.getvalue()).decode(), **more)


def theirs(each: dict) -> np.ndarray:
    """LabelMe's own rule, by its description: Pillow's shapes with their outlines; a mask's picture from its corner."""
    picture = Image.new("1", SIZE[::-1])
    points = [tuple(point) for point in each["points"]]
    if each["shape_type"] == "mask":
        pixels = Image.open(io.BytesIO(base64.b64decode(each["mask"])))
        picture.paste(pixels, (int(points[0][0]), int(points[0][1])))
    elif each["shape_type"] == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    elif each["shape_type"] == "rectangle":
        ImageDraw.Draw(picture).rectangle(points, outline=1, fill=1)
    else:
        ImageDraw.Draw(picture).polygon(points, outline=1, fill=1)
    return np.array(picture)


def data_set(folder: Path, *shapes: dict, where: str = "images", **more):
    content = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": "a.png", "imageData": None,
               "imageHeight": SIZE[0], "imageWidth": SIZE[1]} | more  # fmt: skip
    for name in ("a", "sub/a", "sub/b"):
        (folder / where / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / where / f"{name}.json").write_text(json.dumps(content))
    if where == "images" and (folder / "masks").is_dir():
        (folder / "masks").rmdir()
    return folder


SHAPES = [
    shape("fox", [[3.2, 4], [13.7, 4.5], [10, 11.9]]), shape("car", [[18, 10], [30, 19]], "rectangle"),
    shape("tree", [[20, 5], [22, 8]], "circle"), mask_shape("boat", CAR),
]  # fmt: skip


@pytest.mark.parametrize("where", ["images", "masks"])
def test_shapes_in_and_out(folder, tmp_path, where):
    dataset = open_data_set(data_set(folder, *SHAPES, where=where))
    assert dataset.title == "LabelMe" and [item.name for item in dataset.items] == ["a", "sub/a", "sub/b"]
    masks = read(dataset, dataset.items[0]).masks
    assert [each.label for each in masks] == ["fox", "car", "tree", "boat"]
    for mask, each in zip(masks, SHAPES, strict=True):
        np.testing.assert_array_equal(mask.foreground, theirs(each))
    write_again(dataset, tmp_path / "out")
    written = json.loads((tmp_path / "out" / where / "sub/b.json").read_text())
    assert written["version"] == "5.5.0" and [each["label"] for each in written["shapes"]] == [
        "fox",
        "car",
        "tree",
        "boat",
    ]
    for before, after in zip(masks, written["shapes"], strict=True):
        np.testing.assert_array_equal(theirs(after), before.foreground)
        assert after["flags"] == {}


@given(st.lists(st.tuples(st.floats(-5, 40), st.floats(-5, 40)), min_size=3, max_size=7))
@settings(max_examples=examples(60), deadline=None)
def test_polygons_are_drawn_as_labelme_draws_them(points):
    each = shape("fox", [list(point) for point in points])
    np.testing.assert_array_equal(draw_shape(each, SIZE), theirs(each))


def test_shapes_of_one_group_are_one_object(folder, tmp_path):
    parts = [mask_shape("fox", FOX, group_id=3), mask_shape("car", CAR, group_id=3), mask_shape("fox", CAR, group_id=3)]
    dataset = open_data_set(data_set(folder, *parts))
    masks = read(dataset, dataset.items[0]).masks
    assert [each.label for each in masks] == ["fox", "car"]
    np.testing.assert_array_equal(masks[0].foreground, FOX | CAR)
    dataset.write(dataset.items[0], {0: Result(FOX)}, SIZE, tmp_path / "out")
    written = json.loads((tmp_path / "out/images/a.json").read_text())["shapes"]
    assert [each["label"] for each in written] == ["fox", "car"] and written[1] == parts[1]
    np.testing.assert_array_equal(theirs(written[0]), FOX)


@pytest.mark.parametrize("label", [0, 3])
def test_a_label_that_is_a_number_is_its_text(folder, label):
    dataset = open_data_set(data_set(folder, mask_shape("fox", FOX) | {"label": label}))
    assert [each.label for each in read(dataset, dataset.items[0]).masks] == [str(label)]


def test_a_rectangle_of_four_corners_is_that_of_two():
    """Newer versions of X-AnyLabeling write all four."""
    corners = [[3, 4], [17, 4], [17, 12], [3, 12]]
    two = shape("fox", [[17, 12], [3, 4]], "rectangle")
    np.testing.assert_array_equal(draw_shape(shape("fox", corners, "rectangle"), SIZE), draw_shape(two, SIZE))


def test_rectangles_are_refined_from_their_box_when_asked(folder):
    data_set(folder, shape("car", [[30, 20], [18, 10]], "rectangle"))
    dataset = open_data_set(folder, options=ReadingOptions(boxes=True))
    [mask] = read(dataset, dataset.items[0]).masks
    assert isinstance(mask.mask, CoarseMask)
    assert mask.mask.confusion[12:18, 20:28].all() and not mask.mask.confusion[:8].any()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (shape("fox", [[1, 2], [3, 4]]), "three points or more"),
        (shape("fox", [[1, 2]], "point"), "kind 'point' has no area"),
        (shape("fox", [[1, 2], [3, 4], [5, 6]], "linestrip"), "has no area"), (shape("fox", "x"), "expected points"),
        (shape("fox", [[1, 2, 3]] * 3), "expected points"), (shape("fox", [[1, "2"]] * 3), "expected points"),
        (shape("fox", [[1, float("nan")]] * 3), "expected points"),
        (shape("fox", [[1, 2]], "rectangle"), "expected 2 points"),
        (shape("fox", [[1, 2], [9, 9]], "mask", mask="%%"), "its mask is no picture"),
        (shape("fox", [[1, 2], [9, 9]], "mask", mask=None), "its mask is no picture"),
        (mask_shape("fox", FOX) | {"points": [[30, 2], [40, 9]]}, "outside of the image"),
    ],
)  # fmt: skip
def test_a_shape_without_a_usable_mask_stays_and_is_counted(folder, tmp_path, bad, words):
    dataset = open_data_set(data_set(folder, mask_shape("car", CAR), bad))
    reading = read(dataset, dataset.items[0])
    assert [each.label for each in reading.masks] == ["car"]
    assert reading.unusable[0].startswith("shape 1 (fox): ") and words in reading.unusable[0]
    write_again(dataset, tmp_path / "out")
    kept = json.loads((tmp_path / "out/images/a.json").read_text())["shapes"][1]
    assert json.dumps(kept) == json.dumps(bad)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shapes": "x"}, "no list of shapes"), ({"shapes": [{"points": []}]}, "shape 0 has no label"),
        ({"imageHeight": 99}, "expected 32×24 pixels, as the image; got 32×99"),
    ],
)  # fmt: skip
def test_files_that_are_refused_say_why(folder, change, words):
    dataset = open_data_set(data_set(folder, **change))
    with pytest.raises(MaskError, match=words) as caught:
        read(dataset, dataset.items[0])
    assert caught.value.hint


def test_an_image_without_shapes_is_missing_them(folder):
    data_set(folder, mask_shape("car", CAR))
    save(folder / "images/c.png", np.zeros((*SIZE, 3), np.uint8))
    dataset = open_data_set(folder)
    item = next(each for each in dataset.items if each.name == "c")
    with pytest.raises(MaskError, match="there is no mask for c.png") as caught:
        read(dataset, item)
    assert "images/c.json" in caught.value.hint
    assert dataset.pass_over().not_taken == {}
