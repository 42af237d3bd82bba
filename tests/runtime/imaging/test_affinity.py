import numpy as np
import pytest

from segrefine.runtime.imaging.affinity import Bonds, spread


def halves(height: int, width: int) -> np.ndarray:
    """A picture, red on the left and blue on the right, with a little noise."""
    left = np.arange(width) < width / 2
    colours = np.where(left[None, :, None], [200, 60, 60], [50, 70, 190]) * np.ones((height, 1, 1))
    return (colours + np.random.default_rng(0).normal(0, 4, colours.shape)).clip(0, 255).astype(np.uint8)


def test_values_even_out_within_a_region_and_stop_at_its_border():
    values = np.zeros((16, 16), np.float32)
    values[6:10, :6] = 1
    even = spread(halves(64, 64), values, smoothness=5000, contrast=0.3)
    left, right = even[:, :7], even[:, 9:]
    assert left.std() < 0.02 and left.mean() == pytest.approx(values[:, :8].mean(), abs=0.03)
    assert np.abs(right).max() < 0.02


def test_it_is_the_least_squares_solution():
    image, values = halves(9, 7), np.random.default_rng(1).normal(size=(9, 7)).astype(np.float32)
    bonds, units = Bonds(image, 0.5), np.eye(63, dtype=np.float32).reshape(63, 9, 7)
    pairs = np.stack([bonds.map(bonds.gather(bonds.line(unit))).ravel() for unit in units], 1)
    exact = np.linalg.solve(np.eye(63) + 40 * (np.diag(pairs.sum(1)) - pairs), values.ravel())
    np.testing.assert_allclose(pairs, pairs.T, atol=1e-7)
    assert pairs.sum(1).max() <= 1 + 1e-6
    assert np.abs(spread(image, values, smoothness=40, contrast=0.5).ravel() - exact).max() < 0.02 * np.ptp(exact)


def test_no_smoothness_changes_nothing():
    values = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    np.testing.assert_array_equal(spread(halves(64, 64), values, smoothness=0, contrast=0.3), values)


@pytest.mark.parametrize(("shape", "grid"), [((64, 128), (8, 16)), ((8, 8), (1, 1)), ((1024, 256), (128, 32))])
def test_a_constant_stays_what_it_is_at_any_size(shape, grid):
    even = spread(np.full((*shape, 3), 127, np.uint8), np.full(grid, 0.7, np.float32), smoothness=1000, contrast=0.3)
    assert even.shape == grid and even.dtype == np.float32
    np.testing.assert_allclose(even, 0.7, rtol=1e-3)
