import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from segrefine.runtime.imaging.filters import box_blur, erode, gaussian_blur


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def test_box_blur_is_the_mean_of_the_square_cut_at_the_border():
    values = noise(9, 7)
    blurred = box_blur(values, 2)
    assert blurred[4, 3] == pytest.approx(values[2:7, 1:6].mean(), abs=1e-6)
    assert blurred[0, 0] == pytest.approx(values[:3, :3].mean(), abs=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.9, 2.1, 6.0])
def test_gaussian_blur_has_the_width_asked_for(sigma):
    point = np.zeros((101, 101), np.float32)
    point[50, 50] = 1
    blurred = gaussian_blur(point, sigma)
    rows = np.arange(101) - 50
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    assert np.sqrt((blurred.sum(1) * rows**2).sum()) == pytest.approx(sigma, rel=0.08)


def test_blurs_keep_a_constant_and_every_size():
    for shape in ((1, 1), (1, 40), (3, 2)):
        for sigma in (0.0, 0.7, 5.0):
            np.testing.assert_allclose(gaussian_blur(np.ones(shape, np.float32), sigma), 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 2), (40, 60)])
@pytest.mark.parametrize("width", [1, 4, 25])
def test_erosion_keeps_what_has_a_square_of_the_mask_around_it(shape, width):
    mask = np.random.default_rng(0).random(shape) < 0.98
    around = sliding_window_view(np.pad(mask, width), (2 * width + 1, 2 * width + 1))
    np.testing.assert_array_equal(erode(mask, width), around.all((2, 3)))
