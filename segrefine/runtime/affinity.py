"""Near pixels of like colour belong together: bonds between neighbours, and evidence that spreads along them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.runtime.filters import Floats

Offset = tuple[int, int]
Bonds = list[tuple[Offset, Floats]]
"""For each offset (rows ≥ 0, columns of any sign) the bond, in [0, 1], of each pixel with the one at that offset."""

_OFFSETS: tuple[Offset, ...] = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2), (2, -2))
_WORKING_SIDE = 128
_LARGEST_RESIDUAL, _MOST_STEPS = 2e-3, 200


def bonds(image: NDArray[np.uint8], contrast: float) -> Bonds:
    """How strongly each pixel of an image (H, W, 3) and those around it hold together; those of one pixel sum to ≤ 1.

    Args:
        image: uint8 RGB.
        contrast: colour difference, in multiples of the image's root mean square, at which neighbours part.
    """
    colour = np.asarray(image / 255, np.float32)
    differences = {offset: np.square(_ahead(colour, offset) - _behind(colour, offset)).sum(-1) for offset in _OFFSETS}
    scale = 2 * contrast**2 * max(np.mean([d.mean() for d in differences.values() if d.size] or [0]), 1e-6)
    total = sum(1 / np.hypot(*offset) for offset in _OFFSETS) * 2
    return [(o, (np.exp(-d / scale) / (np.hypot(*o) * total)).astype(np.float32)) for o, d in differences.items()]


def gather(joined: Bonds, values: Floats) -> Floats:
    """The sum over each pixel's neighbours of bond times value, float32 (H, W)."""
    total = np.zeros_like(values)
    for offset, bond in joined:
        _behind(total, offset)[...] += bond * _ahead(values, offset)
        _ahead(total, offset)[...] += bond * _behind(values, offset)
    return total


def spread(image: NDArray[np.uint8], values: Floats, *, smoothness: float, contrast: float) -> Floats:
    """`values`, evened out within regions of like colour; float32 (h, w).

    The minimum of Σ (u − v)² + smoothness · Σ bond (u_i − u_j)² over all pairs (weighted least squares, Farbman et al.
    2008), found by conjugate gradients on at most 128 pixels a side.

    Args:
        image: uint8 (H, W, 3) RGB.
        values: float32 (h, w), a coarser grid over the same image.
        smoothness: how much bonds weigh against the values; 0 changes nothing.
        contrast: see `bonds`.
    """
    height, width = values.shape
    if smoothness == 0:
        return values
    scale = min(1.0, _WORKING_SIDE / max(image.shape[:2]))
    side_y, side_x = (max(length, round(side * scale)) for length, side in zip(values.shape, image.shape, strict=False))
    small = np.asarray(Image.fromarray(image).resize((side_x, side_y), Image.Resampling.BOX))
    fine = np.asarray(Image.fromarray(values).resize((side_x, side_y), Image.Resampling.BILINEAR), np.float32)
    even = _solve(bonds(small, contrast), fine, smoothness)
    return np.asarray(Image.fromarray(even).resize((width, height), Image.Resampling.BOX), np.float32)


def _solve(joined: Bonds, values: Floats, smoothness: float) -> Floats:
    """Conjugate gradients, preconditioned by the diagonal, for u + smoothness · Laplacian(u) = values."""
    diagonal = 1 + smoothness * gather(joined, np.ones_like(values))

    def apply(u: Floats) -> Floats:
        return diagonal * u - np.float32(smoothness) * gather(joined, u)

    u = values.copy()
    residual = values - apply(u)
    enough = _LARGEST_RESIDUAL**2 * float(np.square(values).sum())
    direction: Floats = residual / diagonal
    scaled = direction
    length = float((residual * scaled).sum())
    for _ in range(_MOST_STEPS):
        if float(np.square(residual).sum()) <= enough:
            break
        along = apply(direction)
        step = np.float32(length / float((direction * along).sum()))
        u, residual = u + step * direction, residual - step * along
        scaled = residual / diagonal
        previous, length = length, float((residual * scaled).sum())
        direction = scaled + np.float32(length / previous) * direction
    return u


def _behind(array: Floats, offset: Offset) -> Floats:
    """The part of `array` (H, W, …) whose pixels have a partner at `offset`."""
    dy, dx = offset
    height, width = array.shape[:2]
    return array[: max(height - dy, 0), max(-dx, 0) : max(width - max(dx, 0), 0)]


def _ahead(array: Floats, offset: Offset) -> Floats:
    """The partners at `offset` of the pixels in `_behind`."""
    dy, dx = offset
    height, width = array.shape[:2]
    return array[dy:, max(dx, 0) : max(width + min(dx, 0), 0)]
