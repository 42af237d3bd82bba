"""Near pixels of like colour belong together: bonds between neighbours, and evidence that spreads along them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.runtime.imaging.filters import Floats

_OFFSETS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2), (2, -2))
_REACH = 2
_WORKING_SIDE = 128
_LARGEST_RESIDUAL, _MOST_STEPS = 2e-3, 200


class Bonds:
    """Bonds of each pixel of an image to those around it; the bonds of one pixel sum to ≤ 1.

    Maps are worked on as one line of pixels, rows parted by `_REACH` zeros: a neighbour is then a fixed number of
    places ahead, whatever the pixel, and no bond crosses the image's border.

    Args:
        image: uint8 (H, W, 3) RGB.
        contrast: colour difference, in multiples of the image's root mean square, at which neighbours part.
    """

    def __init__(self, image: NDArray[np.uint8], contrast: float) -> None:
        self._shape = image.shape[:2]
        self._stride = image.shape[1] + _REACH
        planes = self.line(np.moveaxis(image, -1, 0) * np.float32(1 / 255))
        inside = self.line(np.ones(self._shape, np.float32))
        places = {offset: offset[0] * self._stride + offset[1] for offset in _OFFSETS}
        paired = {offset: inside[ahead:] * inside[:-ahead] for offset, ahead in places.items()}
        gaps = {offset: _square_length(planes[:, ahead:] - planes[:, :-ahead]) for offset, ahead in places.items()}
        means = [np.dot(gaps[offset], each) / each.sum() for offset, each in paired.items() if each.any()]
        scale = 2 * contrast**2 * max(np.mean(means or [0]), 1e-6)
        total = sum(1 / np.hypot(*offset) for offset in _OFFSETS) * 2
        self._bonds: list[tuple[int, Floats]] = []
        for offset, ahead in places.items():
            strength = np.exp(gaps[offset] * np.float32(-1 / scale)) * paired[offset]
            self._bonds.append((ahead, strength * np.float32(1 / (np.hypot(*offset) * total))))

    def line(self, values: Floats) -> Floats:
        """A map (H, W) as a line of pixels; of several maps (…, H, W) their lines."""
        padded = np.zeros((*values.shape[:-1], self._stride), np.float32)
        padded[..., : values.shape[-1]] = values
        return padded.reshape(*values.shape[:-2], -1)

    def map(self, line: Floats) -> Floats:
        """The map (H, W) of a line of pixels; of several lines their maps (…, H, W)."""
        return line.reshape(*line.shape[:-1], -1, self._stride)[..., : self._shape[1]]

    def gather(self, line: Floats) -> Floats:
        """The sum over each pixel's neighbours of bond times value, a line as well, or several lines (…, pixels)."""
        total, product = np.zeros_like(line), np.empty_like(line)
        for places, bond in self._bonds:
            part = product[..., :-places]
            total[..., :-places] += np.multiply(bond, line[..., places:], out=part)
            total[..., places:] += np.multiply(bond, line[..., :-places], out=part)
        return total


def _square_length(vectors: Floats) -> Floats:
    """Return the squared length of each column, (C, N) → (N,)."""
    return np.asarray(np.einsum("cn,cn->n", vectors, vectors))


def spread(
    image: NDArray[np.uint8],
    values: Floats,
    *,
    smoothness: float,
    contrast: float,
    weights: Floats | None = None,
) -> Floats:
    """`values`, evened out within regions of like colour; float32 (h, w).

    The minimum of Σ w (u − v)² + smoothness · Σ bond (u_i − u_j)² over all pairs (weighted least squares, Farbman et
    al. 2008), found by conjugate gradients on at most 128 pixels a side.

    Args:
        image: uint8 (H, W, 3) RGB.
        values: float32 (h, w), a coarser grid over the same image.
        smoothness: how much bonds weigh against the values; 0 changes nothing.
        contrast: see `Bonds`.
        weights: float32 (h, w), how much each value counts, not 0 everywhere; None for 1.
    """
    height, width = values.shape
    if smoothness == 0:
        return values
    scale = min(1.0, _WORKING_SIDE / max(image.shape[:2]))
    side_y, side_x = (max(length, round(side * scale)) for length, side in zip(values.shape, image.shape, strict=False))
    small = np.asarray(Image.fromarray(image).resize((side_x, side_y), Image.Resampling.BOX))
    fine = _enlarge(values, (side_x, side_y))
    bonds = Bonds(small, contrast)
    shares = np.ones_like(bonds.line(fine))  # of what pads a row, too: it has no bonds, and its weight must not be 0
    if weights is not None:
        shares += bonds.line(_enlarge(weights, (side_x, side_y)) - 1)
    even = bonds.map(_solve(bonds, bonds.line(fine), shares, smoothness))
    return np.asarray(Image.fromarray(even).resize((width, height), Image.Resampling.BOX), np.float32)


def _enlarge(values: Floats, size: tuple[int, int]) -> Floats:
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR), np.float32)


def _solve(bonds: Bonds, values: Floats, weights: Floats, smoothness: float) -> Floats:
    """Conjugate gradients, preconditioned by the diagonal, for w · u + smoothness · Laplacian(u) = w · values."""
    diagonal: Floats = weights + np.float32(smoothness) * bonds.gather(np.ones_like(values))

    def apply(u: Floats) -> Floats:
        return diagonal * u - np.float32(smoothness) * bonds.gather(u)

    u, target = values.copy(), weights * values
    residual: Floats = target - apply(u)
    enough = _LARGEST_RESIDUAL**2 * float(np.square(target).sum())
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
