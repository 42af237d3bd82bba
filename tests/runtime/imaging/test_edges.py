import numpy as np
import pytest

from segrefine.runtime.imaging.edges import EdgeGuide, EdgeSettings, follow_edges, sharpen


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
    sharp = sharpen(picture(truth), coarse, np.zeros_like(coarse), EdgeSettings(rounds_alone=4))
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
