"""Blurs and an erosion whose cost does not depend on their width."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def box_blur(values: Floats, radius: int) -> Floats:
    """The mean over a square of 2·radius + 1 pixels around each pixel, cut off at the border; float32 (H, W)."""
    return _running_mean(_running_mean(values, radius, 0), radius, 1)


def erode(mask: Mask, width: int) -> Mask:
    """The pixels of a mask, bool (H, W), that have a square of `width` pixels to each side in it; none is outside."""
    side = 2 * width + 1
    for _ in range(2):  # along columns, then along rows
        counts = np.zeros((len(mask) + 1, mask.shape[1]), np.int32)
        np.cumsum(mask, 0, out=counts[1:])
        kept = np.zeros_like(mask)
        kept[width : len(mask) - width] = counts[side:] - counts[:-side] == side
        mask = np.ascontiguousarray(kept.T)
    return mask


def gaussian_blur(values: Floats, sigma: float) -> Floats:
    """A Gaussian blur of standard deviation `sigma` pixels; float32 (H, W), the border mirrored.

    Exact below two pixels; three box blurs above (Kovesi 2010), whose fractional widths are met by blending two radii.
    """
    if sigma <= 0:
        return values
    if sigma < 2:
        radius = max(1, round(3 * sigma))
        kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        kernel = (kernel / kernel.sum()).astype(np.float32)
        return _convolve(_convolve(values, kernel, 0), kernel, 1)
    radius, rest = divmod((np.sqrt(4 * sigma**2 + 1) - 1) / 2, 1)
    for _ in range(3):
        narrow, wide = box_blur(values, int(radius)), box_blur(values, int(radius) + 1)
        values = np.asarray((1 - rest) * narrow + rest * wide, np.float32)
    return values


def _running_mean(values: Floats, radius: int, axis: int) -> Floats:
    lines = np.moveaxis(values, axis, 0)
    count = len(lines)
    totals = np.zeros((count + 1, *lines.shape[1:]))
    np.cumsum(lines, 0, np.float64, out=totals[1:])
    last = np.minimum(np.arange(count) + radius + 1, count)
    first = np.maximum(np.arange(count) - radius, 0)
    means = (totals[last] - totals[first]) / (last - first)[:, None]
    return np.asarray(np.moveaxis(means, 0, axis), np.float32)


def _convolve(values: Floats, kernel: Floats, axis: int) -> Floats:
    radius, lines = len(kernel) // 2, np.moveaxis(values, axis, 0)
    padded = np.pad(lines, [(radius, radius), (0, 0)], mode="reflect" if len(lines) > radius else "edge")
    blurred = sum(weight * padded[i : i + len(lines)] for i, weight in enumerate(kernel))
    return np.asarray(np.moveaxis(blurred, 0, axis), np.float32)


def pool(values: Floats, cell: int) -> Floats:
    """The means of the squares of `cell` × `cell` pixels, float32 (H / cell, W / cell); H and W are multiples of it."""
    height, width = values.shape
    squares = values.reshape(height // cell, cell, width // cell, cell)
    return np.asarray(squares.mean((1, 3)), np.float32)
