"""Masks as COCO writes them: run lengths down the columns, as numbers or as text, and polygons; as pycocotools does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import MaskError

Mask = NDArray[np.bool_]
_HINT = "see https://cocodataset.org/#format-data"
_MOST_PIXELS = 2**28


def encode_rle(mask: Mask) -> dict[str, Any]:
    """A mask, bool (H, W), as compressed run lengths: `{"size": [H, W], "counts": text}`."""
    return {"size": list(mask.shape), "counts": _to_text(count_runs(mask))}


def count_runs(mask: Mask) -> list[int]:
    """Lengths of the runs of a mask, bool (H, W), down its columns; the first is of background and may be 0."""
    flat = mask.ravel(order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate([[0] if flat.size and flat[0] else [], turns, [flat.size]])
    runs: list[int] = np.diff(ends, prepend=0).astype(int).tolist()
    return runs


def decode_rle(rle: Any) -> Mask:
    """The mask, bool (H, W), of run lengths, compressed or as a list.

    Raises:
        MaskError: it is no such object, or its runs do not fill its size.
    """
    size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (None, None)
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise MaskError(f"expected run lengths with a size [height, width], got {size!r}", hint=_HINT)
    if size[0] * size[1] > _MOST_PIXELS:
        raise MaskError(f"a mask of {size[1]}×{size[0]} pixels is too large", hint=_HINT)
    runs = _from_text(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(n) is int and n >= 0 for n in runs):
        raise MaskError("expected run lengths as compressed text, or as a list of whole numbers", hint=_HINT)
    if sum(runs) != size[0] * size[1]:
        message = f"the run lengths make up {sum(runs)} pixels, but the size is {size[1]}×{size[0]}"
        raise MaskError(message, hint=_HINT)
    values = np.arange(len(runs)) % 2 == 1
    flat: Mask = np.repeat(values, runs)
    return flat.reshape(size, order="F")


def draw_polygons(polygons: Any, size: tuple[int, int]) -> Mask:
    """The mask, bool (H, W), of polygons, each a flat list of x and y; what any of them covers.

    Raises:
        MaskError: there is none, or one has less than three corners or something else than finite numbers.
    """
    if not isinstance(polygons, list) or not polygons:
        raise MaskError("expected one polygon or more", hint=_HINT)
    mask = np.zeros(size, np.bool_)
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(type(n) in (int, float) and abs(n) < 1e6 for n in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise MaskError(f"expected a polygon as three corners x, y or more, got {str(polygon)[:60]}", hint=_HINT)
        mask |= _draw_polygon(np.array(polygon, np.float64).reshape(-1, 2), size)
    return mask


_SCALE = 5
"""Corners are rounded to a fifth of a pixel."""


def _draw_polygon(corners: NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """The pixels between the outline's crossings of the columns' centres."""
    height, width = size
    whole = np.trunc(_SCALE * corners + 0.5).astype(np.int64)
    outline = np.concatenate([_line(*ends) for ends in zip(whole, np.roll(whole, -1, 0), strict=True)])
    (x0, y0), (x1, y1) = outline[:-1].T, outline[1:].T
    column = (np.minimum(x0, x1) + 0.5) / _SCALE - 0.5
    row = np.ceil(np.clip((np.minimum(y0, y1) + 0.5) / _SCALE - 0.5, 0, height))
    crossing = (x0 != x1) & (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    places = (column[crossing] * height + row[crossing]).astype(np.int64)
    turns = np.bincount(places, minlength=height * width + 1)[: height * width]
    inside: Mask = (np.cumsum(turns) % 2 == 1).reshape(size, order="F")
    return inside


def _line(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """The points (n, 2) of a line, one for each step along its longer side; the same whichever end it starts from."""
    along = int(np.argmax(np.abs(end - start)))
    first, last = (start, end) if start[along] <= end[along] else (end, start)
    steps = np.arange(last[along] - first[along] + 1)
    slope = (last - first) / max(1, int(last[along] - first[along]))
    points = np.trunc(first + steps[:, None] * slope + 0.5).astype(np.int64)
    points[:, along] = first[along] + steps
    return points if first is start else points[::-1]


def _to_text(runs: Sequence[int]) -> str:
    """Runs in COCO's letters: each as its difference to the run before the last, five bits a letter, lowest first."""
    letters = []
    for index, run in enumerate(runs):
        left = run - runs[index - 2] if index > 2 else run
        while True:
            bits, left = left & 31, left >> 5
            more = left != (-1 if bits & 16 else 0)
            letters.append(chr(48 + bits + 32 * more))
            if not more:
                break
    return "".join(letters)


def _from_text(text: str) -> list[int]:
    runs: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 40:
            raise MaskError(f"the compressed run lengths hold {letter!r}, which means nothing there", hint=_HINT)
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) and 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise MaskError("the compressed run lengths are cut short", hint=_HINT)
    return runs
