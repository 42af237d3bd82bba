"""Classical tools that sharpen a coarse mask, for comparison: GrabCut and a fully connected CRF.

Each takes an image, uint8 (H, W, 3) RGB, and a coarse mask, float (H, W) in [0, 1], and returns a bool (H, W) mask.
Lengths are fractions of the mask's size, the square root of its area, so that one setting serves every image size. The
defaults measured best on 50 training scenes of the demo model.
Where a tool cannot start, since the coarse mask leaves it no foreground or no background to learn from, the result is
the coarse mask at threshold 0.5.

Both need OpenCV, of the extra `train`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import MissingDependencyError

Image = NDArray[np.uint8]
Coarse = NDArray[np.float32]
Mask = NDArray[np.bool_]

LEAST_SEEDS = 8  # pixels: GrabCut fits five Gaussians to each side
DENSE_ENTRIES = 96**4  # entries of the CRF's kernel matrix: all pairs of a 96x96 image, 340 MB


def _opencv() -> Any:
    """OpenCV.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingDependencyError("OpenCV is not installed", hint="pip install opencv-python-headless") from error
    return cv2


def disc(radius: float) -> NDArray[np.uint8]:
    """A round structuring element of at least one pixel's radius."""
    cv2 = _opencv()
    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def grabcut(image: Image, coarse: Coarse, *, band: float = 0.15, iterations: int = 4) -> Mask:
    """GrabCut (Rother et al. 2004) that may change only a band about the coarse border."""
    cv2 = _opencv()
    mask = coarse > 0.5
    if min(mask.sum(), (~mask).sum()) < LEAST_SEEDS:
        return mask
    inside, outside = find_seeds(mask, band)
    trimap = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    trimap[inside], trimap[outside] = cv2.GC_FGD, cv2.GC_BGD
    cv2.setRNGSeed(0)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = np.ascontiguousarray(image[..., ::-1])
    cv2.grabCut(bgr, trimap, (0, 0, 0, 0), background, foreground, iterations, cv2.GC_INIT_WITH_MASK)
    return np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))


def dense_crf(
    image: Image, coarse: Coarse, *, reach: float = 0.5, colour: float = 8, weight: float = 6, iterations: int = 8
) -> Mask:
    """Mean field of a fully connected CRF (Krähenbühl & Koltun 2011), both kernels symmetrically normalised.

    Up to 96x96 pixels the appearance kernel is exact; above, pixels hear from a regular grid of senders instead of
    from all others, as many as `DENSE_ENTRIES` allows.

    Args:
        image: uint8 (H, W, 3) RGB.
        coarse: float (H, W) in [0, 1].
        reach: spatial deviation of the appearance kernel, in mask sizes.
        colour: its colour deviation, in grey levels.
        weight: its weight; the smoothness kernel weighs 2.
        iterations: mean-field updates.
    """
    size = math.sqrt(max(1, (coarse > 0.5).sum()))
    prior = 0.2 + 0.6 * _smooth(coarse.astype(np.float32), _gaussian(0.08 * size))
    unary = np.log(prior / (1 - prior))
    kernel, senders = _appearance_kernel(image, reach * size, colour)
    near = _gaussian(0.06 * size)
    own = near.max() ** 2  # what a pixel would send itself
    belief = np.tanh(unary / 2)  # expectation of the label, -1 background and +1 foreground
    for _ in range(iterations):
        appearance = (kernel @ belief.reshape(-1)[senders]).reshape(belief.shape)
        smoothness = (_smooth(belief, near) - own * belief) / (1 - own)
        belief = np.tanh((unary + weight * appearance + 2 * smoothness) / 2)
    return belief > 0


def find_seeds(mask: Mask, band: float) -> tuple[Mask, Mask]:
    """Pixels surely inside and surely outside the object; the inner band narrows until enough pixels are inside."""
    cv2 = _opencv()
    size, pixels = math.sqrt(mask.sum()), mask.astype(np.uint8)
    outside = cv2.dilate(pixels, disc(1.6 * band * size)) == 0
    for radius in range(max(1, round(band * size)), 0, -1):
        inside = cv2.erode(pixels, disc(radius)) > 0
        if inside.sum() >= LEAST_SEEDS:
            return inside, outside
    return mask, outside


def _gaussian(deviation: float) -> NDArray[np.float32]:
    cv2 = _opencv()
    deviation = max(0.5, deviation)
    return np.asarray(cv2.getGaussianKernel(2 * math.ceil(3 * deviation) + 1, deviation, cv2.CV_32F), np.float32)


def _smooth(values: NDArray[np.float32], taps: NDArray[np.float32]) -> NDArray[np.float32]:
    cv2 = _opencv()
    return np.asarray(cv2.sepFilter2D(values, -1, taps, taps, borderType=cv2.BORDER_REFLECT), np.float32)


def _appearance_kernel(image: Image, reach: float, colour: float) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Kernel from sender to pixel, (H*W, senders), normalised on both sides, and the senders' flat indices."""
    height, width = image.shape[:2]
    step = math.ceil(math.sqrt(max(1.0, (height * width) ** 2 / DENSE_ENTRIES)))
    rows, columns = np.mgrid[0:height, 0:width]
    senders = np.flatnonzero((rows % step == 0) & (columns % step == 0))
    points = np.dstack([rows / reach, columns / reach, image / colour]).reshape(-1, 5).astype(np.float32)
    points -= points.mean(0)
    half = 0.5 * (points**2).sum(1)
    kernel = points @ points[senders].T
    kernel -= half[:, None]
    kernel -= half[senders]
    np.exp(kernel, out=kernel)
    kernel[senders, np.arange(len(senders))] = 0  # a pixel sends itself nothing
    scale = 1 / np.sqrt(np.maximum(kernel.sum(1), 1e-3))
    kernel *= scale[:, None]
    kernel *= scale[senders]
    return kernel, senders
