"""Boxes, points and strokes become a probability, and what they say for certain stays certain."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segrefine.assets import demo_bundle
from segrefine.errors import ImageError, MaskError
from segrefine.runtime.files.marks import Box, Marks, Point, coarse_from_marks, read_scribble
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner

SIDE = 64
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
OBJECT = np.hypot(ROWS - 30, COLUMNS - 24) < 14
NOISE = np.random.default_rng(0).normal(0, 6, (SIDE, SIDE, 3))
IMAGE = (np.where(OBJECT[..., None], [200, 90, 40], [70, 110, 160]) + NOISE).clip(0, 255).astype(np.uint8)
BOX = Box(10, 16, 39, 45)


def strokes(**values: int) -> np.ndarray:
    drawn = np.zeros((SIDE, SIDE), np.int8)
    drawn[30, 18:30], drawn[60, 5:60] = values.get("on", 1), values.get("off", -1)
    return drawn


@pytest.mark.parametrize(
    ("marks", "least"),
    [
        (Marks(boxes=[BOX]), 0.9),
        (Marks(points=[Point(24, 30)]), 0.7),
        (Marks(points=[Point(24, 30), Point(60, 60, False)]), 0.7),
        (Marks(scribble=strokes()), 0.7),
        (Marks(boxes=[BOX], points=[Point(24, 30)]), 0.9),
    ],
    ids=["box", "point", "points", "scribble", "box and point"],
)
def test_marks_find_an_object_that_stands_out(marks, least):
    found = coarse_from_marks(IMAGE, marks)
    assert found.probability.dtype == np.float32 and 0 <= found.probability.min() <= found.probability.max() <= 1
    assert iou(found.probability > 0.5, OBJECT) > least


def test_what_marks_say_is_certain_and_the_rest_is_not():
    found = coarse_from_marks(IMAGE, Marks(boxes=[BOX], scribble=strokes()))
    assert not found.confusion[:, 45:].any() and not found.probability[:, 45:].any()  # beyond the box and its slack
    assert (found.probability[30, 18:30] == 1).all() and not found.confusion[30, 18:30].any()
    inside = found.probability[found.confusion]
    assert inside.min() > 0 and inside.max() < 1 and found.confusion[17, 12]


def test_every_mark_stays_as_drawn():
    """Also points beside each other, whose discs overlap, and one that lies outside of the box and off the object."""
    points = [Point(240, 300), Point(241, 300, False), Point(100, 160), Point(8, 8, False)]
    large = IMAGE.repeat(10, 0).repeat(10, 1)
    found = coarse_from_marks(large, Marks(boxes=[Box(*(10 * edge for edge in BOX))], points=points))
    assert [found.probability[int(y), int(x)] for x, y, _ in points] == [1, 0, 1, 0]


def test_several_boxes_are_one_object():
    parts = Marks(boxes=[Box(2, 2, 20, 20), Box(40, 40, 60, 60)])
    flat = np.full((SIDE, SIDE, 3), 128, np.uint8)
    found = coarse_from_marks(flat, parts).probability > 0.5
    assert found[11, 11] and found[50, 50] and not found[30, 30]


@pytest.mark.parametrize("scale", [1, 7, 31])
def test_the_size_of_the_image_does_not_matter(scale):
    large = np.asarray(Image.fromarray(IMAGE).resize((SIDE * scale, SIDE * scale), Image.Resampling.NEAREST))
    box = Box(*(edge * scale for edge in BOX))
    found = coarse_from_marks(large, Marks(boxes=[box])).probability[scale // 2 :: scale, scale // 2 :: scale]
    assert iou(found > 0.5, OBJECT) > 0.9


@pytest.mark.parametrize("box", [Box(-20, -9, 300, 45), Box(30.2, 30.3, 30.9, 30.8), Box(63, 63, 64, 64)])
def test_boxes_may_reach_out_of_the_image_and_be_tiny(box):
    assert (coarse_from_marks(IMAGE, Marks(boxes=[box])).probability > 0.5).any()


def wrong(**given: Any) -> Marks:
    """Marks of other types than they are declared with."""
    return Marks(**given)


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        (Marks(), "nothing marks the object"),
        (Marks(points=[Point(3, 3, False)]), "nothing marks the object"),
        (Marks(boxes=[Box(70, 3, 90, 20)]), "box 70,3,90,20 lies outside of the image, 64×64"),
        (Marks(boxes=[Box(9, 3, 9, 20)]), "has no area"),
        (Marks(boxes=[Box(0, 0, float("nan"), 9)]), "has no area"),
        (Marks(points=[Point(3, 64)]), "point 3,64 lies outside"),
        (Marks(points=[Point(float("nan"), 4)]), "lies outside"),
        (Marks(boxes=[BOX], points=[Point(24, 30), Point(5, 5)]), "5,5, on the object, lies outside of all boxes"),
        (Marks(boxes=[BOX], scribble=-strokes()), "stroke on the object lies outside of all boxes, such as at 5,60"),
        (Marks(points=[Point(24, 30), Point(24.5, 30, False)]), "point 24.5,30 is marked both on and off"),
        (Marks(points=[Point(20, 30, False)], scribble=strokes()), "point 20,30 is marked both on and off"),
        (Marks(scribble=np.ones((SIDE, SIDE), np.int8)), "no pixel open"),
        (Marks(scribble=np.ones((3, 4), np.int8)), "strokes"),
        (wrong(scribble=255 * strokes(off=0).astype(np.uint8)), "strokes: expected whole numbers -1, 0 and 1"),
        (wrong(scribble="strokes.png"), "strokes: expected whole numbers -1, 0 and 1"),
        (wrong(boxes=BOX), r"expected a list of Box\(left, top, right, bottom\); got Box\(left=10"),
        (wrong(boxes=[(1, 2, 3)]), r"expected a list of Box\(.*; got \[\(1, 2, 3\)\]"),
        (wrong(points=[("left", 3)]), r"expected a list of Point\(x, y, foreground\); got \[\('left', 3\)\]"),
    ],
)
def test_marks_that_do_not_serve_are_refused(marks, message):
    with pytest.raises(MaskError, match=message) as caught:
        coarse_from_marks(IMAGE, marks)
    assert caught.value.hint


def test_plain_tuples_and_arrays_serve_as_marks():
    named = coarse_from_marks(IMAGE, Marks(boxes=[BOX], points=[Point(24, 30), Point(12, 40, False)]))
    plain_boxes: list[Any] = [[tuple(BOX)], np.array([BOX])]
    for boxes in plain_boxes:
        plain = coarse_from_marks(IMAGE, Marks(boxes=boxes, points=[(24, 30), (12, 40, False)]))
        np.testing.assert_array_equal(plain.probability, named.probability)


@pytest.mark.parametrize("image", [IMAGE - 5.0, IMAGE[..., :2], None], ids=["float", "two channels", "none"])
def test_marks_are_of_an_image(image):
    with pytest.raises(ImageError, match="expected an image"):
        coarse_from_marks(image, Marks(boxes=[BOX]))


def png(image: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def palette(*colours: tuple[int, int, int]) -> Image.Image:
    """Strokes by index: 0 where nothing is said, 1 on the object, 2 on background."""
    picture = Image.fromarray(np.select([strokes() > 0, strokes() < 0], [1, 2], 0).astype(np.uint8))
    picture.putpalette([value for colour in colours for value in colour])
    return picture


def transparent(drawn: np.ndarray) -> Image.Image:
    picture = Image.fromarray(np.where(drawn > 0, 255, 0).astype(np.uint8)).convert("RGBA")
    picture.putalpha(Image.fromarray(np.where(drawn != 0, 255, 0).astype(np.uint8)))
    return picture


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


GREY = np.select([strokes() > 0, strokes() < 0], [255, 0], 128)
GREYS = {level: (level,) * 3 for level in (0, 128, 255)}


@pytest.mark.parametrize(
    "source",
    [
        png(Image.fromarray(GREY.astype(np.uint8))),
        png(Image.fromarray(GREY.astype(np.uint8)).convert("RGB")),
        png(Image.fromarray((GREY * 257).astype(np.uint16))),
        png(Image.fromarray(GREY.astype(np.uint8)).convert("P")),
        png(palette(GREYS[128], GREYS[255], GREYS[0])),
        png(palette(GREYS[0], GREYS[255], GREYS[0]), transparency=0),
        png(Image.fromarray(GREY.astype(np.uint8)), transparency=128),
        png(transparent(strokes())),
        npy(strokes()),
    ],
    ids=[
        "grey",
        "grey as RGB",
        "16 bits",
        "grey as palette",
        "palette",
        "transparent palette",
        "transparent grey",
        "transparent",
        "npy",
    ],  # fmt: skip
)
def test_strokes_are_read_from_every_kind_of_file(source):
    np.testing.assert_array_equal(read_scribble(source, (SIDE, SIDE)), strokes())


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (b"no picture", ImageError, "no picture"),
        (png(Image.new("L", (5, 5), 128)), MaskError, "expected 64×64 pixels"),
        (png(Image.new("L", (SIDE, SIDE), 128)), MaskError, "no stroke"),
        (png(Image.fromarray((GREY > 128).astype(np.uint8) * 255)), MaskError, "every pixel is a stroke"),
        (png(Image.fromarray(IMAGE)), MaskError, "got colours"),
        (png(palette(GREYS[128], (128, 0, 0), GREYS[0])), MaskError, "got colours"),
        (npy(np.full((SIDE, SIDE), 0.5)), MaskError, "expected whole numbers"),
    ],
)
def test_files_without_usable_strokes_are_refused(source, error, message):
    with pytest.raises(error, match=message) as caught:
        read_scribble(source, (SIDE, SIDE))
    assert caught.value.hint


def test_refining_changes_nothing_outside_of_the_confusion_area():
    coarse = coarse_from_marks(IMAGE, Marks(boxes=[BOX], points=[Point(24, 30)]))
    with Refiner.from_bundle(demo_bundle()) as refine:
        result = refine(IMAGE, coarse, "apple", guard=False)
        anywhere = refine(IMAGE, coarse.probability, "apple", guard=False)
    kept = ~coarse.confusion
    np.testing.assert_array_equal(result.probability[kept], coarse.probability[kept])
    assert np.any(result.probability[coarse.confusion] != coarse.probability[coarse.confusion])
    assert np.any(anywhere.probability[kept] != coarse.probability[kept])
