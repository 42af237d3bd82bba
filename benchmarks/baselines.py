"""The classical tools a user would reach for to sharpen a coarse mask.

Each takes an image, uint8 (H, W, 3) RGB, and a coarse mask, float (H, W) in [0, 1], and returns a bool (H, W) mask.
Lengths are fractions of the mask's size, the square root of its area, so that one setting serves every image size; the
defaults measured best on 50 training scenes under all eight corruptions.
Where a tool cannot start, since the coarse mask leaves it no foreground or no background to learn from, the answer is
the coarse mask at threshold 0.5; `benchmarks.evaluate` reports the share of masks that come back unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from cv2.typing import MatLike
from skimage.color import rgb2lab
from skimage.segmentation import random_walker as skimage_random_walker

from segrefine.evaluation.bench.baselines import Coarse, Image, Mask, dense_crf, find_seeds, grabcut

Baseline = Callable[[Image, Coarse], Mask]


def random_walker(image: Image, coarse: Coarse, *, band: float = 0.15, beta: float = 3000) -> Mask:
    """Random walker (Grady 2006) in Lab colours, seeded on both sides of a band about the coarse border."""
    mask = coarse > 0.5
    inside, outside = find_seeds(mask, band)
    if not inside.any() or not outside.any() or (inside | outside).all():
        return mask
    seeds = inside + 2 * outside
    lab = rgb2lab(image) / 100
    sides = skimage_random_walker(lab, seeds, beta=beta, mode="bf", channel_axis=-1)
    return np.asarray(sides == 1, np.bool_)


def guided_filter(image: Image, coarse: Coarse, *, reach: float = 0.4, epsilon: float = 1e-4) -> Mask:
    """Guided filter (He et al. 2010) of the coarse mask, with the colour image as the guide."""
    radius = max(1, round(reach * math.sqrt((coarse > 0.5).sum())))

    def mean(values: MatLike) -> MatLike:
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1))

    guide, source = image.astype(np.float32) / 255, coarse.astype(np.float32)
    guide_mean, source_mean = mean(guide), mean(source)
    covariance = mean(guide * source[..., None]) - guide_mean * source_mean[..., None]
    products = (guide[..., :, None] * guide[..., None, :]).reshape(*source.shape, 9)
    variance = np.stack([mean(products[..., i].copy()) for i in range(9)], -1).reshape(*source.shape, 3, 3)
    variance += epsilon * np.eye(3, dtype=np.float32) - guide_mean[..., :, None] * guide_mean[..., None, :]
    slope = np.linalg.solve(variance, covariance[..., None])[..., 0]
    offset = source_mean - (slope * guide_mean).sum(-1)
    filtered: Coarse = (mean(slope) * guide).sum(-1) + mean(offset)
    return filtered > 0.5


BASELINES: dict[str, Baseline] = {
    "grabcut": grabcut,
    "random_walker": random_walker,
    "guided_filter": guided_filter,
    "dense_crf": dense_crf,
}
