"""A sheet of the best and the worst cases of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segrefine.evaluation.comparison import Comparison
from segrefine.evaluation.scores import Agreement, Score
from segrefine.runtime.image import load_image
from segrefine.runtime.pictures import BETTER, INK, WORSE, Colour, Pixels, Tile, contact_sheet, magnify, overlaid


def draw_cases(comparison: Comparison, scores: Sequence[Score], count: int) -> Pixels:
    """The best cases on the left and the worst on the right, one below the other, as one picture, uint8 (h, w, 3).

    Those that refining changed most, or where the coarse masks are not known those with the best and the worst IoU.

    Args:
        comparison: of the masks.
        scores: of all masks, one at least.
        count: of cases on each side; less where there are not so many.

    Raises:
        ImageError: an image is not there, cannot be read, or is of another size than its masks.
    """
    ranked = sorted((s for s in scores if s.counted), key=lambda s: (s.gain, s.after.iou), reverse=True)
    best = ranked[: min(count, (len(ranked) + 1) // 2)]
    worst = ranked[len(best) :][::-1][:count]
    rows = [_tiles(comparison, score, f"best {number}") for number, score in enumerate(best, 1)]
    for number, score in enumerate(worst, 1):
        rows[number - 1] += _tiles(comparison, score, f"worst {number}")
    return contact_sheet(rows, group=len(rows[0]) // (2 if worst else 1))


def _tiles(comparison: Comparison, score: Score, rank: str) -> list[Tile]:
    image = load_image(comparison.find_image(score.name))
    truth, predicted, *coarse = comparison.read(score.name)
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
