import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segrefine.runtime.imaging.edges import EdgeGuide, EdgeSettings, follow_edges, measure_separability, sharpen


def disc(height: int, width: int, radius: float, y: float | None = None, x: float | None = None) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (np.hypot(rows - (y or height / 2), columns - (x or width / 2)) < radius).astype(np.float32)


def picture(truth: np.ndarray) -> np.ndarray:
    """A red disc on blue, with noise."""
    colours = np.where(truth[..., None] > 0.5, [200, 60, 60], [50, 70, 190])
    noisy = colours + np.random.default_rng(0).normal(0, 12, colours.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return ((a > 0.5) & (b > 0.5)).sum() / ((a > 0.5) | (b > 0.5)).sum()


@pytest.mark.parametrize("side", [64, 700])
def test_the_border_moves_to_the_edge_of_the_image(side):
    truth = disc(side, side, side * 0.3)
    coarse = disc(side, side, side * 0.36, x=side * 0.53)
    free = EdgeSettings(rounds_alone=4, coarse_weight_alone=(0.195, 0.195))
    sharp = sharpen(picture(truth), coarse, np.zeros_like(coarse), free)
    assert overlap(coarse, truth) < 0.75
    assert overlap(sharp, truth) > 0.97


def test_evidence_decides_between_two_objects_of_one_colour():
    left, right = disc(64, 64, 12, x=16), disc(64, 64, 12, x=48)
    image = picture(left + right)
    assert overlap(sharpen(image, left + right, np.zeros_like(left), EdgeSettings()), left + right) > 0.9
    gain = left - 6 * disc(64, 64, 14, x=48)  # evidence comes from a coarser grid
    assert overlap(sharpen(image, left + right, gain, EdgeSettings()), left) > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (2, 3), (900, 5)])
def test_every_size_gives_finite_probabilities(shape):
    image = np.full((*shape, 3), 127, np.uint8)
    sharp = sharpen(image, np.full(shape, 0.6, np.float32), np.zeros(shape, np.float32), EdgeSettings())
    assert sharp.shape == shape and sharp.dtype == np.float32
    assert ((sharp >= 0) & (sharp <= 1)).all()


def test_several_masks_at_once_are_each_as_alone():
    left, right = disc(40, 64, 12, x=16), disc(40, 64, 12, x=48)
    image, logits = picture(left + right), 8 * np.stack([left, right, left + right]) - 4
    guide = EdgeGuide(image, EdgeSettings())
    together = follow_edges(guide, logits)
    for one, alone in zip(together, (follow_edges(guide, each) for each in logits), strict=True):
        np.testing.assert_allclose(one, alone, atol=1e-6)


def test_colours_that_tell_the_mask_from_the_rest_may_move_it_further():
    separable, blended = disc(64, 64, 18), np.random.default_rng(0).random((64, 64)).astype(np.float32)
    told = measure_separability(picture(separable), separable > 0.5)
    untold = measure_separability(picture(blended), separable > 0.5)
    settings = EdgeSettings()
    low, high = settings.separable
    assert untold < low < high < told
    weights = [settings.trusting(0, each).coarse_weight for each in (untold, (low + high) / 2, told)]
    assert weights == pytest.approx([0.8, 0.6, 0.4])
    assert settings.trusting(1, untold).coarse_weight == settings.coarse_weight


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-9, 9))
def test_more_evidence_leaves_the_coarse_mask_less_weight(one, other, separability):
    less, more = sorted((one, other))
    weights = [EdgeSettings().trusting(worth, separability).coarse_weight for worth in (less, more)]
    assert weights[0] >= weights[1] >= EdgeSettings().coarse_weight - 1e-9


@pytest.mark.parametrize("mask", [np.zeros((5, 7), bool), np.ones((5, 7), bool)])
def test_a_mask_without_a_border_is_told_from_nothing(mask):
    assert measure_separability(np.full((5, 7, 3), 9, np.uint8), mask) == 0


def test_a_mask_that_is_good_already_hardly_moves_where_colours_say_nothing():
    """A photograph's clutter: the same colours inside and outside."""
    rng = np.random.default_rng(1)
    image = np.repeat(np.repeat(rng.integers(0, 256, (20, 20, 3), np.uint8), 8, 0), 8, 1)
    coarse = disc(160, 160, 40)
    moved = sharpen(image, coarse, np.zeros_like(coarse), EdgeSettings())
    free = sharpen(image, coarse, np.zeros_like(coarse), EdgeSettings(coarse_weight_alone=(0.195, 0.195)))
    assert overlap(moved, coarse) > max(0.9, overlap(free, coarse) + 0.01)
