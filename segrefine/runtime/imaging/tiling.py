"""The image codec on images too large for it at once: tile by tile, blended where tiles overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
TILE = 128
"""Side of a tile in latent pixels: as large as Stable Diffusion XL was trained on, so that only larger images are cut.
The codec's attention and normalisation see one tile at a time; its memory grows with the fourth power of the side."""
OVERLAP = 32
"""Latent pixels that neighbours share."""


def map_tiles(compute: Callable[[Floats], Floats], values: Floats, *, per_latent: tuple[int, int]) -> Floats:
    """Apply `compute` to `values`: tile by tile if they have more than one tile, else as a whole.

    Args:
        compute: float32 (B, c, h, w) → (B, C, H, W): the codec, either way.
        values: float32 (B, c, h, w).
        per_latent: rows and columns, of the values and of the result, that one row or column of latents has.
    """
    given, made = per_latent
    height, width = (side // given for side in values.shape[2:])
    if max(height, width) <= TILE:
        return compute(values)
    total = weights = np.zeros(1, np.float32)
    for rows in _spans(height):
        for columns in _spans(width):
            tile = compute(values[:, :, _scaled(rows, given), _scaled(columns, given)])
            if total.ndim == 1:
                total = np.zeros((*tile.shape[:2], height * made, width * made), np.float32)
                weights = np.zeros(total.shape[2:], np.float32)
            share = np.outer(_ramp(tile.shape[2], made), _ramp(tile.shape[3], made))
            total[:, :, _scaled(rows, made), _scaled(columns, made)] += tile * share
            weights[_scaled(rows, made), _scaled(columns, made)] += share
    return total / weights


def _spans(side: int) -> Iterator[slice]:
    """Overlapping spans of one length that cover a side of latents."""
    length = min(TILE, side)
    count = 1 + -(-(side - length) // (TILE - OVERLAP))
    for number in range(count):
        start = round(number * (side - length) / max(1, count - 1))
        yield slice(start, start + length)


def _scaled(span: slice, factor: int) -> slice:
    return slice(span.start * factor, span.stop * factor)


def _ramp(length: int, factor: int) -> Floats:
    """The weight of a tile along one side: rising over the overlap, falling at the end, never 0."""
    distance = np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1))
    return np.minimum(distance / (OVERLAP * factor), 1).astype(np.float32)
