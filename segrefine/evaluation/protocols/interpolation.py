"""Bilinear resizing as PyTorch computes it without antialiasing, as products with small matrices."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@lru_cache(maxsize=256)
def interpolation_matrix(source: int, target: int) -> Floats:
    """The matrix (target, source) that resizes one side bilinearly; the corners' pixels are not aligned.

    Positions are computed in float32, as PyTorch computes them, so that weights that are exactly 0 there are 0 here.
    """
    scale = np.float32(source) / np.float32(target)
    position = np.maximum(scale * (np.arange(target, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    first = np.minimum(position.astype(np.int64), source - 1)
    second = np.minimum(first + 1, source - 1)
    weight = (position - first).astype(np.float32)
    matrix = np.zeros((target, source))
    rows = np.arange(target)
    np.add.at(matrix, (rows, first), (np.float32(1) - weight).astype(np.float64))
    np.add.at(matrix, (rows, second), weight.astype(np.float64))
    matrix.setflags(write=False)
    return matrix


def resize(values: NDArray[np.generic], size: tuple[int, int]) -> Floats:
    """Resize an array (H, W) to `size` (h, w), bilinearly."""
    rows = interpolation_matrix(values.shape[0], size[0])
    columns = interpolation_matrix(values.shape[1], size[1])
    return np.asarray(rows @ values.astype(np.float64) @ columns.T)
