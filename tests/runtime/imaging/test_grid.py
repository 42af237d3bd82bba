"""Any image to the model's grid and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segrefine.runtime.imaging.grid import FittedImage, fit_to_grid
from tests.examples import examples

SIDES = st.integers(1, 300)


def fit(height: int, width: int, *, side: int = 64, multiple: int = 8) -> FittedImage:
    return fit_to_grid(np.zeros((height, width, 3), np.uint8), side=side, multiple=multiple)


def disc(height: int, width: int, row: float, column: float, radius: float) -> np.ndarray:
    """A disc; coordinates of pixel centres are half-integers."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (np.hypot(rows - row, columns - column) < radius).astype(np.float32)


def centre(values: np.ndarray) -> tuple[float, float]:
    rows, columns = np.mgrid[: values.shape[0], : values.shape[1]] + 0.5
    return float((rows * values).sum() / values.sum()), float((columns * values).sum() / values.sum())


@pytest.mark.parametrize(
    ("size", "content", "grid"),
    [
        ((64, 64), (64, 64), (64, 64)),
        ((480, 640), (48, 64), (48, 64)),
        ((500, 375), (64, 48), (64, 48)),
        ((100, 73), (64, 47), (64, 48)),
        ((20, 31), (41, 64), (48, 64)),
        ((1, 1), (64, 64), (64, 64)),
        ((3000, 40), (64, 8), (64, 8)),
        ((1, 5000), (8, 64), (8, 64)),
    ],
)
def test_sizes(size: tuple[int, int], content: tuple[int, int], grid: tuple[int, int]) -> None:
    fitted = fit(*size)
    assert (fitted.size, fitted.content, fitted.image.shape) == (size, content, (*grid, 3))
    assert fitted.apply(np.ones(size)).shape == grid
    assert fitted.restore(np.ones((grid[0] // 4, grid[1] // 4), np.float32)).shape == size


@settings(max_examples=examples(100), deadline=None)
@given(height=SIDES, width=SIDES, multiple=st.sampled_from([1, 8, 32]), value=st.floats(0, 1, width=32))
def test_any_size_comes_back_and_constants_stay(height: int, width: int, multiple: int, value: float) -> None:
    image = np.full((height, width, 3), 37, np.uint8)
    fitted = fit_to_grid(image, side=64, multiple=multiple)
    assert (fitted.image == 37).all()
    assert not any(extent % multiple for extent in fitted.image.shape[:2])
    there = fitted.apply(np.full((height, width), value, np.float32))
    assert there.dtype == np.float32
    np.testing.assert_allclose(there, value, atol=1e-6)
    back = fitted.restore(there)
    assert back.shape == (height, width)
    np.testing.assert_allclose(back, value, atol=1e-6)


@settings(max_examples=examples(50), deadline=None)
@given(height=SIDES, width=SIDES, seed=st.integers(0, 99))
def test_probabilities_stay_probabilities(height: int, width: int, seed: int) -> None:
    fitted, rng = fit(height, width), np.random.default_rng(seed)
    noise = rng.integers(0, 2, (height, width)).astype(np.float32)
    for values in (fitted.apply(noise), fitted.restore(fitted.apply(noise))):
        assert values.min() >= -1e-6
        assert values.max() <= 1 + 1e-6


@pytest.mark.parametrize("size", [(64, 64), (90, 200), (333, 211), (41, 29)])
@pytest.mark.parametrize("cell", [1, 4])
def test_nothing_moves_on_the_way_there_and_back(size: tuple[int, int], cell: int) -> None:
    height, width = size
    fitted = fit(*size)
    shape = disc(height, width, 0.45 * height, 0.6 * width, 0.3 * min(size))
    there = fitted.apply(shape)
    coarse = there.reshape(there.shape[0] // cell, cell, there.shape[1] // cell, cell).mean((1, 3))
    back = fitted.restore(coarse)
    pixel = max(size) / 64  # of the grid, in pixels of the image
    assert centre(back) == pytest.approx(centre(shape), abs=0.1 * cell * pixel)
    wrong = (back > 0.5) != (shape > 0.5)
    assert wrong.mean() < (0.02 if cell == 1 else 0.05)


def test_filling_is_the_mirror_image_and_is_cut_off_again() -> None:
    image = np.arange(64 * 61 * 3, dtype=np.uint32).reshape(64, 61, 3).astype(np.uint8)
    fitted = fit_to_grid(image, side=64, multiple=8)
    assert fitted.content == (64, 61)
    np.testing.assert_array_equal(fitted.image[:, :61], image)
    np.testing.assert_array_equal(fitted.image[:, 61:], image[:, :57:-1])
    marked = np.zeros((64, 64), np.float32)
    marked[:, 61:] = 1
    assert not fitted.restore(marked).any()


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(fit_to_grid(stripes, side=64, multiple=8).image.astype(int) - 100).max() <= 3


def test_restored_map_may_be_written_to() -> None:
    fit(10, 10).restore(np.zeros((16, 16), np.float32))[0, 0] = 1
