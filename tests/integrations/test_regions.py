"""Regions of Label Studio as coarse masks, and masks as brushes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from segrefine.errors import MaskError, SettingsError
from segrefine.integrations.brush import decode_brush, encode_brush
from segrefine.integrations.regions import Labelling, read_pairs, read_phrases, write_regions
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import CoarseMask
from segrefine.runtime.named_mask import NamedMask
from tests.examples import examples
from tests.integrations.studio import brush, coarse_of, image_of, phrase, point, rectangle, region

MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))
LABELLING = Labelling(control="tag", image="image", key="image", labels=("Fox", "Car"))


@given(MASKS)
@settings(max_examples=examples(100))
def test_brushes_come_back_as_they_were(mask):
    np.testing.assert_array_equal(decode_brush(encode_brush(mask), mask.shape), mask)


def test_a_run_longer_than_sixteen_bits_is_several():
    mask = np.zeros((300, 400), np.bool_)
    mask[150:, :] = True
    np.testing.assert_array_equal(decode_brush(encode_brush(mask), mask.shape), mask)


@given(st.lists(st.integers(-5, 300), max_size=40), st.tuples(st.integers(1, 9), st.integers(1, 9)))
@settings(max_examples=examples(100))
def test_whatever_comes_is_a_mask_or_one_clear_error(numbers, size):
    try:
        assert decode_brush(numbers, size).shape == size
    except MaskError as error:
        assert error.hint


@given(MASKS, st.data())
@settings(max_examples=examples(50))
def test_a_brush_that_is_cut_short_is_told(mask, data):
    whole = encode_brush(mask)
    cut = whole[: data.draw(st.integers(0, len(whole) - 3))]
    with pytest.raises(MaskError):
        decode_brush(cut, mask.shape)


def test_brushes_rectangles_and_points_are_objects():
    image, mask = load_image(image_of()), coarse_of()
    x, y = (float(each.mean()) for each in np.nonzero(mask)[::-1])
    drawn = [brush(mask, "Car"), rectangle(mask, "Fox"), point(x, y, "Fox"), point(x, y, "Tree"), phrase("no")]
    (first, coarse), (second, boxed), (third, pointed) = read_pairs(drawn, image)
    assert (first, second, third) == ("Car", "Fox", "Tree")
    assert isinstance(coarse, np.ndarray)
    np.testing.assert_array_equal(coarse > 0.5, mask)
    assert isinstance(boxed, CoarseMask) and isinstance(pointed, CoarseMask)
    at = int(y), int(x)
    assert boxed.probability[at] == pointed.probability[at] == 1 and not boxed.confusion[at]
    assert not boxed.confusion.all() and boxed.confusion.any()


def test_a_turned_rectangle_becomes_the_box_around_it():
    image, mask = load_image(image_of()), np.zeros((128, 128), np.bool_)
    mask[40:60, 60:100] = True
    [(_, straight)] = read_pairs([rectangle(mask)], image)
    [(_, turned)] = read_pairs([rectangle(mask, x=60 / 1.28, y=60 / 1.28, width=20 / 1.28, height=40 / 1.28,
                                          rotation=-90)], image)  # fmt: skip
    assert isinstance(straight, CoarseMask) and isinstance(turned, CoarseMask)
    np.testing.assert_array_equal(straight.confusion, turned.confusion)


@pytest.mark.parametrize(
    ("drawn", "told"),
    [
        (lambda mask: brush(mask, original_width=64), "drawn on 128×128 pixels, as the image.*got 64×128"),
        (lambda mask: brush(mask[:64]), "a brush of 128×128 pixels, as its region states.*got one of 8192 pixels"),
        (lambda mask: brush(mask, image_rotation=90), "turned by 90°"),
        (lambda mask: region("brushlabels", {"rle": "text", "brushlabels": ["Car"]}), "the brush of 'Car'"),
        (lambda mask: region("brushlabels", {"rle": encode_brush(mask)}), "a region with a label"),
        (lambda mask: rectangle(mask, width=None), "a region with x, y, width, height"),
        (lambda mask: rectangle(mask, x=300), "lies outside of the image"),
    ],
)
def test_what_cannot_be_used_is_told(drawn, told):
    with pytest.raises(MaskError, match=told) as caught:
        read_pairs([drawn(coarse_of())], load_image(image_of()))
    assert caught.value.hint


def test_phrases_are_the_lines_of_text_areas():
    assert read_phrases([phrase("the fox"), region("textarea", {"text": [" a ", ""]}), brush(coarse_of())]) == [
        "the fox", "a",
    ]  # fmt: skip


def test_results_are_brushes_of_the_control_tag_and_empty_ones_are_left_out():
    class Found(NamedMask):
        def __init__(self, mask, confidence):
            self.mask, self.confidence = mask, confidence

    mask = coarse_of()
    [one] = write_regions([Found(mask, 0.5), Found(mask & False, None)], ["Car", "Fox"], LABELLING)
    assert (one["from_name"], one["to_name"], one["type"], one["score"]) == ("tag", "image", "brushlabels", 0.5)
    np.testing.assert_array_equal(decode_brush(one["value"]["rle"], mask.shape), mask)


def test_the_labelling_is_found_by_its_tags():
    image = {"type": "Image", "value": "photo"}
    parsed = {
        "box": {"type": "RectangleLabels", "to_name": ["i"], "inputs": [image], "labels": ["A"]},
        "tag": {"type": "BrushLabels", "to_name": ["i"], "inputs": [image], "labels": ["Fox"]},
    }
    assert Labelling.of(parsed) == Labelling(control="tag", image="i", key="photo", labels=("Fox",))
    with pytest.raises(SettingsError, match="BrushLabels of an Image"):
        Labelling.of({"box": parsed["box"]})
