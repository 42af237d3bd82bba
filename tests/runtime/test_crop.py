"""Small objects are refined in a crop around them."""

from __future__ import annotations

import numpy as np
import pytest

from segrefine.assets import demo_bundle, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.errors import MaskError
from segrefine.runtime.crop import find_crop
from segrefine.runtime.drawing.pictures import trace_sheet
from segrefine.runtime.files.mask import CoarseMask
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner

SCENE = load_samples(demo_samples())["02-car-erode"]


@pytest.fixture(scope="module")
def refiner():
    with Refiner.from_bundle(demo_bundle(), threads=1) as opened:
        yield opened


def pasted(values: np.ndarray, fill: float) -> np.ndarray:
    """A scene at half its size, in the corner of a large picture."""
    large = np.full((640, 640, *values.shape[2:]), fill, values.dtype)
    large[500:564, 300:364] = values[::2, ::2]
    return large


def test_a_small_object_gains_by_the_crop(refiner):
    rng = np.random.default_rng(0)
    image = pasted(SCENE.image, 0) + (pasted(SCENE.image, 0) == 0) * rng.integers(90, 140, (640, 640, 3), np.uint8)
    coarse, truth = pasted(SCENE.coarse, 0), pasted(SCENE.truth, 0)
    assert truth.mean() < 0.01
    cropped, plain = (refiner(image, coarse, "car", crop=crop, guard=False) for crop in (True, False))
    before = iou(coarse > 0.5, truth)
    assert iou(cropped.mask, truth) > max(before, iou(plain.mask, truth))
    rows, columns = find_crop(coarse)
    outside = np.ones(truth.shape, bool)
    outside[rows, columns] = False
    np.testing.assert_array_equal(cropped.probability[outside], coarse[outside])


def test_a_large_object_is_refined_as_ever(refiner):
    ours, plain = (refiner(SCENE.image, SCENE.coarse, "car", crop=crop) for crop in (True, False))
    np.testing.assert_array_equal(ours.probability, plain.probability)


@pytest.fixture(scope="module")
def mixed():
    """A large object, and a small one of another class in the corner of the same picture: image and both masks."""
    image, large = (values.repeat(2, 0).repeat(2, 1) for values in (SCENE.image, SCENE.coarse))
    small, corner = np.zeros_like(large), (slice(168, 184), slice(8, 24))
    image[corner], small[corner] = SCENE.image[::8, ::8], SCENE.coarse[::8, ::8]
    large[150:, :80] = 0
    assert 0 < small.mean() < 0.01 < large.mean()
    return image, large, small


def test_of_several_only_the_small_ones_are_cropped(refiner, mixed):
    image, large, small = mixed
    masks = [("car", large), ("fox", small)]
    plain, cropped = (refiner(image, masks, crop=crop, guard=False) for crop in (False, True))
    assert cropped[0].part is None and cropped[1].part == find_crop(small)
    np.testing.assert_array_equal(cropped[0].probability, plain[0].probability)
    assert not np.array_equal(cropped[1].probability, plain[1].probability)
    assert not (cropped[0].mask & cropped[1].mask).any()


def test_the_guard_judges_the_crop(refiner, mixed):
    image, _, small = mixed
    part = find_crop(small)
    result = refiner(image, small, "fox")
    alone = refiner(np.ascontiguousarray(image[part]), small[part], "fox")
    assert result.confidence == pytest.approx(alone.confidence)
    assert result.pixel_confidence.shape == small.shape and result.kept_coarse == alone.kept_coarse
    np.testing.assert_array_equal(result.mask[part], alone.mask)


def test_a_mask_that_the_guard_keeps_loses_no_pixel_to_others(refiner, mixed):
    _, large, small = mixed
    flat = np.full((*large.shape, 3), 128, np.uint8)  # the guard trusts nothing there
    overlapping = np.maximum(large, small)
    results = refiner(flat, [("car", overlapping), ("fox", small)])
    for result, coarse in zip(results, (overlapping, small), strict=True):
        assert result.kept_coarse
        np.testing.assert_array_equal(result.mask, coarse > 0.5)
        np.testing.assert_array_equal(result.probability, coarse)


def test_all_that_is_in_doubt_is_in_the_crop(refiner, mixed):
    image, _, small = mixed
    doubt = np.zeros(small.shape, bool)
    doubt[130:200, 10:60] = True
    result = refiner(image, CoarseMask(probability=small, confusion=doubt), "car", guard=False)
    inside = np.zeros(small.shape, bool)
    inside[result.part] = True
    assert (inside | ~doubt).all() and not inside.all()
    np.testing.assert_array_equal(result.probability[~doubt], small[~doubt])


def test_the_trace_shows_the_crop(refiner, mixed):
    image, _, small = mixed
    result = refiner(image, small, "fox", guard=False)
    sheet = trace_sheet(image, result, refiner.decode)
    part = find_crop(small)
    alone = refiner(image[part], small[part], "fox", guard=False)
    of_part = trace_sheet(image[part], alone, refiner.decode)
    np.testing.assert_array_equal(sheet, of_part)


@pytest.mark.parametrize("place", [(0, 0), (99, 99), (50, 0), (37, 62)])
def test_one_pixel_anywhere(place):
    mask = np.zeros((100, 100), np.float32)
    mask[place] = 1
    rows, columns = find_crop(mask)
    assert rows.start <= place[0] < rows.stop and columns.start <= place[1] < columns.stop
    assert 0 <= rows.start < rows.stop <= 100 and rows.stop - rows.start <= 17


def test_an_empty_mask_is_refused(refiner):
    with pytest.raises(MaskError, match="empty"):
        refiner(SCENE.image, SCENE.coarse * 0, "car")
