"""Masks as polygons, as COCO has them: drawn as pycocotools draws them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import MaskError

Mask = NDArray[np.bool_]
_HINT = "see https://cocodataset.org/#format-data"


def draw_polygons(polygons: Any, size: tuple[int, int]) -> Mask:
    """Draw the mask, bool (H, W), of polygons: what any of them covers.

    A part of one or two corners covers no pixel, and is passed over beside a part that does.

    Args:
        polygons: each a flat list of x and y, in pixels.
        size: (H, W) of the image.

    Raises:
        MaskError: there is none of three corners or more, or one holds something else than finite numbers.
    """
    if not isinstance(polygons, list) or not polygons:
        raise MaskError(expected="one polygon or more", hint=_HINT)
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(type(n) in (int, float) and abs(n) < 1e6 for n in polygon)
        if not numbers or len(polygon) % 2:
            raise _no_polygon(polygon)
    drawn = [polygon for polygon in polygons if len(polygon) >= 6]
    if not drawn:
        raise _no_polygon(polygons[0])
    mask = np.zeros(size, np.bool_)
    for polygon in drawn:
        mask |= _draw_polygon(np.array(polygon, np.float64).reshape(-1, 2), size)
    return mask


def _no_polygon(found: Any) -> MaskError:
    return MaskError(expected="a polygon as three corners x, y or more", got=f"{str(found)[:60]}", hint=_HINT)


_SCALE = 5
"""Corners are rounded to a fifth of a pixel."""


def _draw_polygon(corners: NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """The pixels between the outline's crossings of the columns' centres; there is work in the polygon's box alone."""
    height, width = size
    mask = np.zeros(size, np.bool_)
    whole = np.trunc(_SCALE * corners + 0.5).astype(np.int64)
    outline = np.concatenate([_line(*ends) for ends in zip(whole, np.roll(whole, -1, 0), strict=True)])
    (x0, y0), (x1, y1) = outline[:-1].T, outline[1:].T
    column = (np.minimum(x0, x1) + 0.5) / _SCALE - 0.5
    row = np.ceil(np.clip((np.minimum(y0, y1) + 0.5) / _SCALE - 0.5, 0, height))
    crossing = (x0 != x1) & (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    if not crossing.any():
        return mask
    columns, rows = column[crossing].astype(np.int64), row[crossing].astype(np.int64)
    left, top, high, wide = columns.min(), rows.min(), np.ptp(rows), np.ptp(columns) + 1
    turns = np.bincount((columns - left) * high + rows - top, minlength=high * wide)[: high * wide]
    mask[top : top + high, left : left + wide] = (np.cumsum(turns) % 2 == 1).reshape((high, wide), order="F")
    return mask


def _line(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """The points (n, 2) of a line, one for each step along its longer side; the same whichever end it starts from."""
    along = int(np.argmax(np.abs(end - start)))
    first, last = (start, end) if start[along] <= end[along] else (end, start)
    steps = np.arange(last[along] - first[along] + 1)
    slope = (last - first) / max(1, int(last[along] - first[along]))
    points = np.trunc(first + steps[:, None] * slope + 0.5).astype(np.int64)
    points[:, along] = first[along] + steps
    return points if first is start else points[::-1]
