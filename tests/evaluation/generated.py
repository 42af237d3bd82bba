"""Masks and label maps of all sizes, made from whole numbers alone, so that they are the same everywhere and forever.

The figures of `official/*.json` were computed on them once, by the functions that each file names.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SIZES = [(96, 128), (120, 90), (66, 100), (81, 81), (47, 61)]
LARGE = [(480, 640), (427, 640), (640, 425)]
COUNT = 330
MAPS = 120


class Numbers:
    """A linear congruential generator: whole numbers below a limit, the same on every machine."""

    def __init__(self, seed: int) -> None:
        self._state = seed * 2654435761 % 2**32

    def below(self, limit: int) -> int:
        self._state = (self._state * 1664525 + 1013904223) % 2**32
        return (self._state >> 8) % limit


def ellipse(size: tuple[int, int], row: int, column: int, high: int, wide: int) -> np.ndarray:
    """The pixels of an ellipse, bool (H, W); centre and half axes in tenths of a pixel."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(np.int64) * 10
    return ((rows - row) * wide) ** 2 + ((columns - column) * high) ** 2 <= (high * wide) ** 2


def _blob(size: tuple[int, int], numbers: Numbers, reach: int) -> tuple[int, int, int, int]:
    high, wide = (1 + reach * (4 + numbers.below(8)) // 8 for _ in range(2))
    return numbers.below(10 * size[0]), numbers.below(10 * size[1]), high, wide


def mask_pairs(count: int = COUNT) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of a predicted and a true mask, bool (H, W): from one pixel to the whole image, perfect and empty ones."""
    numbers = Numbers(7)
    for place in range(count):
        size = LARGE[place // 25 % 3] if place % 25 == 24 else SIZES[place % len(SIZES)]
        reach = int(5 * (min(size) * 1.6) ** ((place % 33) / 32))
        row, column, high, wide = _blob(size, numbers, reach)
        truth = ellipse(size, row, column, high, wide)
        if place % 7 == 3:
            truth |= ellipse(size, *_blob(size, numbers, reach))
        shift = [numbers.below(1 + reach) - reach // 2 for _ in range(4)]
        predicted = ellipse(size, row + shift[0], column + shift[1], max(1, high + shift[2]), max(1, wide + shift[3]))
        kind = place % 11
        if kind == 0:
            predicted = truth.copy()
        elif kind == 5 and place % 2:
            predicted = np.zeros(size, bool)
        elif kind == 7 and place % 3 == 0:
            truth = np.zeros(size, bool)
            predicted = predicted if place % 2 else truth.copy()
        elif kind == 9 and place % 4 == 0:
            predicted = ~truth
        yield predicted, truth


def label_maps(count: int = MAPS, classes: int = 21) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of a predicted and a true label map, uint8 (H, W); 255 in the truth is of no class.

    Class 20 is predicted, and never true.
    """
    numbers = Numbers(11)
    for place in range(count):
        size = SIZES[place % len(SIZES)]
        truth, predicted = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        for _ in range(3):
            index = 1 + numbers.below(classes - 2)
            row, column, high, wide = _blob(size, numbers, 10 + numbers.below(5 * min(size)))
            shift = numbers.below(60) - 30
            truth[ellipse(size, row, column, high, wide)] = index
            if numbers.below(9):
                found = classes - 1 if numbers.below(12) == 0 else index
                predicted[ellipse(size, row + shift, column - shift, high, wide)] = found
        if place % 3 == 0:
            truth[ellipse(size, *_blob(size, numbers, 80))] = 255
        if place % 17 == 0:
            predicted = np.where(truth == 255, 0, truth).astype(np.uint8)
        yield predicted, truth
