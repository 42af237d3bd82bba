"""Masks as polygons without holes, whose outlines and insides are exactly their pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from segrefine.datasets.polygons import Mask

Pixel = tuple[int, int]
"""Column and row."""
_Run = tuple[int, int, int]
"""Row, first column and last column."""


def draw_pieces(pieces: list[list[Pixel]], size: tuple[int, int]) -> Mask:
    """The pixels, bool (H, W), of polygons through pixels: their outlines and all that is inside."""
    picture = Image.new("1", size[::-1])
    for corners in pieces:
        ImageDraw.Draw(picture).polygon(corners, outline=1, fill=1)
    return np.array(picture, np.bool_)


def split_into_pieces(mask: Mask) -> list[list[Pixel]]:
    """Polygons through the pixels of a mask, bool (H, W), that `draw_pieces` draws as the mask again.

    A polygon goes down through rows that follow each other. Where a row has two neighbours above or below, as
    around a hole, other polygons begin.
    """
    return [_outline(chain) for chain in _chains(mask)]


def _chains(mask: Mask) -> list[list[_Run]]:
    """Runs of pixels in rows that follow each other, each with one neighbour above and one below at most."""
    open_chains: list[list[_Run]] = []
    closed: list[list[_Run]] = []
    for row in range(len(mask)):
        runs = _runs_of(mask[row], row)
        above = [[chain for chain in open_chains if _touch(chain[-1], run)] for run in runs]
        below = {id(chain): sum(_touch(chain[-1], run) for run in runs) for chain in open_chains}
        going = []
        for run, chains in zip(runs, above, strict=True):
            if len(chains) == 1 and below[id(chains[0])] == 1:
                chains[0].append(run)
                going.append(chains[0])
            else:
                going.append([run])
        closed += [chain for chain in open_chains if not any(chain is each for each in going)]
        open_chains = going
    return closed + open_chains


def _runs_of(row: Mask, number: int) -> list[_Run]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
    return [(number, first, last - 1) for first, last in edges.reshape(-1, 2).tolist()]


def _touch(first: _Run, second: _Run) -> bool:
    return first[1] <= second[2] and second[1] <= first[2]


def _outline(chain: list[_Run]) -> list[Pixel]:
    """The corners of a chain: down its left side and up its right one, along rows and columns only."""
    left = _side([(run[1], run[0]) for run in chain], np.maximum)
    right = _side([(run[2], run[0]) for run in chain], np.minimum)
    corners = [*left, *right[::-1]]
    return _without_middles(corners) if len(set(corners)) > 2 else (corners * 3)[:4]


def _side(ends: list[Pixel], inner: np.ufunc) -> list[Pixel]:
    """The ends of rows with the steps between them, which go through the row that has the pixel at both columns."""
    corners = [ends[0]]
    for (x0, y0), (x1, y1) in zip(ends, ends[1:], strict=False):
        if x0 != x1:
            # the step lies at the inner one of both columns, which both rows have
            step = int(inner(x0, x1))
            corners += [(step, y0), (step, y1)]
        corners.append((x1, y1))
    return corners


def _without_middles(corners: list[Pixel]) -> list[Pixel]:
    """The corners without repetitions, and without those in the middle of a straight line."""
    kept: list[Pixel] = []
    for corner in corners:
        if kept and kept[-1] == corner:
            continue
        if len(kept) > 1 and _are_in_line(kept[-2], kept[-1], corner):
            kept[-1] = corner
        else:
            kept.append(corner)
    return kept


def _are_in_line(first: Pixel, middle: Pixel, last: Pixel) -> bool:
    rises = (first[1] <= middle[1] <= last[1]) or (first[1] >= middle[1] >= last[1])
    runs = (first[0] <= middle[0] <= last[0]) or (first[0] >= middle[0] >= last[0])
    return rises and runs and (first[0] == middle[0] == last[0] or first[1] == middle[1] == last[1])
