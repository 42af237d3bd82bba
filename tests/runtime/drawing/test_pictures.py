"""Overlays: inside tinted, the border drawn as a line, whatever the size."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from segrefine.runtime.drawing.pictures import ORANGE, Tile, contact_sheet, magnify, overlay, segment_sheet
from segrefine.runtime.imaging.grid import FittedImage
from segrefine.runtime.segmentation import Segment

TINT = 0.4


@pytest.mark.parametrize(("size", "width"), [((40, 60), 1), ((330, 500), 3), ((900, 640), 6), ((30, 2000), 2)])
def test_inside_is_tinted_and_the_border_is_a_line(size, width):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    mask = np.kron(rng.random((size[0] // 10, size[1] // 10)) < 0.7, np.ones((10, 10))) > 0
    around = sliding_window_view(np.pad(mask, width), (2 * width + 1, 2 * width + 1))
    deep = around.all((2, 3))
    drawn = overlay(image, mask)
    np.testing.assert_array_equal(drawn[~mask], image[~mask])
    np.testing.assert_array_equal(drawn[mask & ~deep], np.tile(ORANGE, (int(np.sum(mask & ~deep)), 1)))
    np.testing.assert_allclose(drawn[deep], (1 - TINT) * image[deep] + TINT * np.array(ORANGE), atol=0.5001)


def test_a_mask_that_is_empty_leaves_the_image_as_it_is():
    image = np.full((9, 7, 3), 80, np.uint8)
    drawn = overlay(image, np.zeros((9, 7), np.bool_))
    assert (drawn == image).all() and not np.shares_memory(drawn, image)


def test_a_long_strip_takes_no_more_memory_than_it_has_pixels():
    drawn = overlay(np.zeros((1, 2_000_000, 3), np.uint8), np.ones((1, 2_000_000), np.bool_))
    assert (drawn == ORANGE).all()


@pytest.mark.parametrize(("samples", "tiles"), [(1, 2), (2, 3)])
def test_one_sample_has_no_uncertainty_to_show(samples, tiles):
    image = np.zeros((16, 16, 3), np.uint8)
    fit = FittedImage(image=image, size=(16, 16), content=(16, 16))
    drawn = np.full((samples, 4, 4), 0.75, np.float32)
    segment = Segment(phrase="the fox", samples=drawn, mean=drawn.mean(0), fit=fit)
    tile = Tile(picture=magnify(image), caption="the fox")
    assert segment_sheet([(image, segment, "")]).shape == contact_sheet([[tile] * tiles], group=tiles).shape
