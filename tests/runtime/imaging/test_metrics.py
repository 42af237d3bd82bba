"""Metrics against cases computed by hand."""

import numpy as np
import pytest

from segrefine.runtime.imaging.metrics import average_recall, boundary_iou, iou


def square(left, top, side, size=20):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


EMPTY = np.zeros((20, 20), bool)


def test_iou():
    assert iou(square(0, 0, 4), square(2, 0, 4)) == pytest.approx(8 / 24)
    assert iou(square(0, 0, 4), square(10, 10, 4)) == 0
    assert iou(EMPTY, EMPTY) == 1
    assert iou(EMPTY, square(0, 0, 4)) == 0


def test_boundary_iou_compares_the_inner_borders():
    # squares of 8 and of 6 about one centre: borders one wide are rings of 28 and 20 pixels that do not meet
    assert boundary_iou(square(4, 4, 8), square(5, 5, 6), width=1) == 0
    # two wide: rings of 48 and 32; the inner ring of the large one, 20 pixels, is the outer ring of the small one
    assert boundary_iou(square(4, 4, 8), square(5, 5, 6), width=2) == pytest.approx(20 / (48 + 32 - 20))
    # so wide that both are border through and through
    assert boundary_iou(square(4, 4, 8), square(5, 5, 6), width=4) == pytest.approx(36 / 64)


def test_boundary_iou_takes_the_border_of_the_image_for_a_border():
    whole = np.ones((20, 20), bool)
    assert boundary_iou(whole, square(0, 0, 20), width=1) == 1
    assert boundary_iou(whole, square(1, 1, 18), width=1) == 0


def test_boundary_width_is_two_percent_of_the_diagonal():
    large, small = square(100, 100, 200, size=400), square(105, 105, 190, size=400)
    assert boundary_iou(large, small) == boundary_iou(large, small, width=11)  # 0.02 · 566
    assert boundary_iou(EMPTY, EMPTY) == 1


def test_average_recall_is_the_area_under_the_curve():
    ious = [0.0, 0.2, 0.2, 0.7, 1.0]
    thresholds = np.linspace(0, 1, 100_001)
    curve = (np.array(ious)[:, None] >= thresholds).mean(0)
    assert average_recall(ious) == pytest.approx(0.42)
    assert average_recall(ious) == pytest.approx(np.trapezoid(curve, thresholds), abs=1e-4)
    assert np.isnan(average_recall([]))
