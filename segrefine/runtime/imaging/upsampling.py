"""Resizing from the latent grid to the image, without the edge step."""

from __future__ import annotations

import numpy as np

from segrefine.runtime.imaging.filters import Floats
from segrefine.runtime.imaging.grid import FittedImage


def upsample(fit: FittedImage, coarse: Floats, start: Floats, probability: Floats) -> Floats:
    """Bring a probability to the image's size. Where it did not move, the coarse mask keeps its detail.

    A probability that moved by one half or more is resized alone. Between, the detail counts in proportion.

    Args:
        fit: the image on the model's grid.
        coarse: float32 (H, W) in [0, 1], the mask that was refined.
        start: float32 (h, w), the coarse mask on the latent grid.
        probability: float32 (h, w) in [0, 1], what refining made of it there.

    Returns:
        float32 (H, W) in [0, 1].
    """
    moved = np.minimum(1, 2 * np.abs(fit.restore(probability - start)))
    detail = coarse - fit.restore(start)
    return np.asarray((fit.restore(probability) + (1 - moved) * detail).clip(0, 1), np.float32)
