"""Small objects are refined in a crop around them."""

from __future__ import annotations

import numpy as np
import pytest

from segrefine.assets import demo_bundle, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.errors import MaskError
from segrefine.runtime.crop import find_crop, refine_small
from segrefine.runtime.metrics import iou
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
    cropped, plain = refine_small(refiner, image, coarse, "car"), refiner(image, coarse, "car")
    before = iou(coarse > 0.5, truth)
    assert iou(cropped.mask, truth) > max(before, iou(plain.mask, truth))
    rows, columns = find_crop(coarse)
    outside = np.ones(truth.shape, bool)
    outside[rows, columns] = False
    np.testing.assert_array_equal(cropped.probability[outside], coarse[outside])


def test_a_large_object_is_refined_as_ever(refiner):
    ours, plain = refine_small(refiner, SCENE.image, SCENE.coarse, "car"), refiner(SCENE.image, SCENE.coarse, "car")
    np.testing.assert_array_equal(ours.probability, plain.probability)


@pytest.mark.parametrize("place", [(0, 0), (99, 99), (50, 0), (37, 62)])
def test_one_pixel_anywhere(place):
    mask = np.zeros((100, 100), np.float32)
    mask[place] = 1
    rows, columns = find_crop(mask)
    assert rows.start <= place[0] < rows.stop and columns.start <= place[1] < columns.stop
    assert 0 <= rows.start < rows.stop <= 100 and rows.stop - rows.start <= 17


def test_an_empty_mask_is_refused(refiner):
    with pytest.raises(MaskError, match="empty"):
        refine_small(refiner, SCENE.image, SCENE.coarse * 0, "car")
