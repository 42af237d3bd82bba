"""A sheet of the best and the worst cases of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

import numpy as np

from segrefine.errors import ImageError, SegrefineError
from segrefine.evaluation.comparison import Comparison, Unread
from segrefine.evaluation.scores import Agreement, Score
from segrefine.runtime.drawing.pictures import (
    BETTER,
    INK,
    WORSE,
    Colour,
    Pixels,
    Tile,
    contact_sheet,
    magnify,
    overlaid,
)
from segrefine.runtime.files.image import load_image


def draw_cases(comparison: Comparison, scores: Sequence[Score], count: int) -> tuple[Pixels, list[Unread]]:
    """The best cases on the left and the worst on the right, one below the other, as one picture, uint8 (h, w, 3).

    Those that refining changed most, or where the coarse masks are not known those with the best and the worst IoU.
    Where an image cannot be shown the next case takes its place, and which these are comes second.

    Args:
        comparison: of the masks.
        scores: of all masks, one at least.
        count: of cases on each side; less where there are not so many.

    Raises:
        ImageError: none of the images can be shown: they are not there, cannot be read, or have another size than
            their masks.
    """
    ranked = sorted((s for s in scores if s.counted), key=lambda s: (s.gain, s.after.iou), reverse=True)
    half = (len(ranked) + 1) // 2
    unread: list[Unread] = []
    best = _draw_first(comparison, ranked[:half], count, "best", unread)
    worst = _draw_first(comparison, ranked[half:][::-1], count, "worst", unread)
    if not best and not worst:
        raise ImageError(f"no case can be shown; {unread[0].name}: {unread[0].message}", hint=unread[0].hint)
    pairs: Iterable[tuple[list[Tile], list[Tile]]] = zip_longest(best, worst, fillvalue=[])
    rows = [left + right for left, right in pairs]
    return contact_sheet(rows, group=len(rows[0]) // (2 if best and worst else 1)), unread


def _draw_first(
    comparison: Comparison, ranked: Sequence[Score], count: int, rank: str, unread: list[Unread]
) -> list[list[Tile]]:
    """A row for each of the first cases whose images can be shown; the others go to `unread`."""
    rows: list[list[Tile]] = []
    for score in ranked:
        if len(rows) == count:
            break
        try:
            rows.append(_tiles(comparison, score, f"{rank} {len(rows) + 1}"))
        except SegrefineError as error:
            unread.append(Unread.of(score.name, error))
    return rows


def _tiles(comparison: Comparison, score: Score, rank: str) -> list[Tile]:
    image = load_image(comparison.find_image(score.name))
    truth, predicted, *coarse = comparison.read(score.name)
    if image.shape[:2] != truth.size:
        sizes = " and ".join(f"{side[1]}×{side[0]}" for side in (image.shape, truth.size))
        raise ImageError(f"{score.name}: the image and its masks are {sizes} pixels", hint="they are of one size")
    large, empty = magnify(image), np.zeros(truth.size, np.bool_)
    tiles = [Tile(picture=large, caption=f"{rank}: {score.name}", note=score.label or "")]

    def add(masks: dict[str, np.ndarray], caption: str, note: str = "", colour: Colour = INK) -> None:
        picture = overlaid(large, masks.get(score.key, empty))
        tiles.append(Tile(picture=picture, caption=caption, note=note, colour=colour))

    if coarse and score.before:
        add(dict(coarse[0].masks), _caption("coarse", score.before))
        note, colour = f"{100 * score.gain:+.1f} points", BETTER if score.gain >= 0 else WORSE
        add(dict(predicted.masks), _caption("refined", score.after), note, colour)
    else:
        add(dict(predicted.masks), _caption("mask", score.after))
    add(dict(truth.masks), "true mask")
    return tiles


def _caption(name: str, agreement: Agreement) -> str:
    return f"{name}: IoU {agreement.iou:.3f}"
