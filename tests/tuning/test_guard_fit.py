"""What the guard's numbers are found with."""

from __future__ import annotations

import numpy as np
import pytest

from segrefine.tuning.guard_fit import FOLDS, _divide_images, fit_logistic

GROUP = np.repeat([0.0, 1.0], [8, 10])[:, None]
RIGHT = np.array([True] * 2 + [False] * 6 + [True] * 9 + [False])


def test_a_logistic_regression_of_two_groups_gives_their_odds():
    weight, constant = fit_logistic(GROUP, RIGHT, np.ones(18))
    assert constant == pytest.approx(np.log(2 / 6), abs=1e-3)
    assert weight + constant == pytest.approx(np.log(9), abs=1e-3)


def test_weights_count_as_repetitions_do():
    counts = np.arange(18) % 3 + 1
    once = fit_logistic(GROUP, RIGHT, counts.astype(float))
    again = fit_logistic(np.repeat(GROUP, counts, 0), np.repeat(RIGHT, counts), np.ones(counts.sum()))
    np.testing.assert_allclose(once, again, atol=1e-6)


def test_a_ridge_keeps_weights_small():
    assert 0 < fit_logistic(GROUP, RIGHT, np.ones(18), ridge=10.0)[0] < fit_logistic(GROUP, RIGHT, np.ones(18))[0] / 2


def test_masks_of_one_image_are_in_one_fold():
    scenes = [5, 5, 9, 7, 7, 7, 11, 12, 13, 14]
    folds = _divide_images(scenes)
    assert len({*zip(scenes, folds.tolist(), strict=True)}) == len(set(scenes)) and folds.max() < FOLDS
