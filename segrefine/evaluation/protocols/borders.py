"""Borders of objects: IoU over all pixels, and CascadePSP's mean boundary accuracy (arXiv 2005.02551)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segrefine.datasets.notation import Notation
from segrefine.evaluation.matching import Matched
from segrefine.evaluation.protocols.protocol import Figure, Mask, OfficialProtocol, Summary, share

_STEPS = 5
_SIDES_TO_RADIUS = 300
"""The largest radius is height and width together, divided by this number."""


@dataclass(frozen=True, kw_only=True)
class ObjectScore:
    """One object.

    Attributes:
        intersection: pixels that both masks have.
        union: pixels that either mask has.
        accuracy: share of right pixels near the true border, the mean over all radii; None without a border.
    """

    intersection: int
    union: int
    accuracy: float | None


class Big(OfficialProtocol):
    """IoU of the pixels of all images, and mean boundary accuracy (mBA).

    Near the true border are the pixels whose disc has pixels of the object and of the background. There are five radii,
    from 1 pixel on.
    """

    name = "big"
    described = "the objects of BIG"
    source = "github.com/hkchengrex/CascadePSP, eval_post.py and util/compute_boundary_acc.py"

    def check(self, truth: Notation) -> None:
        """Check that the true masks are those of BIG."""
        if self.name not in truth.benchmarks:
            raise self.refuse(truth, self.described)

    def judge(self, truth: Matched, predicted: Matched) -> ObjectScore:
        """Judge the one object of an image."""
        true, found = _join(truth), _join(predicted)
        return ObjectScore(
            intersection=int(np.count_nonzero(true & found)),
            union=int(np.count_nonzero(true | found)),
            accuracy=boundary_accuracy(true, found),
        )

    def summarise(self, judged: Iterable[ObjectScore]) -> Summary:
        """Sum up all objects."""
        scores = list(judged)
        accuracies = [each.accuracy for each in scores if each.accuracy is not None]
        return {
            "objects": len(scores),
            "without_border": len(scores) - len(accuracies),
            "iou": share(sum(each.intersection for each in scores), sum(each.union for each in scores)),
            "boundary_accuracy": float(np.mean(accuracies)) if accuracies else None,
        }

    def figures(self, summary: Summary) -> list[Figure]:
        """IoU and mBA."""
        return [Figure(key=("iou",), title="IoU"), Figure(key=("boundary_accuracy",), title="mBA")]


def _join(side: Matched) -> Mask:
    joined = np.zeros(side.size, np.bool_)
    for mask in side.masks.values():
        joined |= mask
    return joined


def boundary_accuracy(truth: Mask, predicted: Mask) -> float | None:
    """The share of right pixels near the true border, the mean over five radii; None where there is no border.

    Args:
        truth: bool (H, W).
        predicted: bool (H, W).
    """
    if truth.all() or not truth.any():
        return None
    largest = (truth.shape[0] + truth.shape[1]) / _SIDES_TO_RADIUS
    radii = [1 + int((largest - 1) / _STEPS * step) for step in range(_STEPS)]
    right = truth == predicted
    shares = {radius: float(right[find_border(truth, radius)].mean()) for radius in set(radii)}
    return float(np.mean([shares[radius] for radius in radii]))


def find_border(mask: Mask, radius: int) -> Mask:
    """The pixels whose disc has pixels of the mask and others, bool (H, W); the image's edge is no border.

    A pixel has one of the other side in its disc exactly where it has one there that touches its own side. So discs are
    drawn about the pixels of both sides that touch each other.
    """
    touching = np.zeros(mask.shape, np.bool_)
    rows, columns = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    touching[1:] |= rows
    touching[:-1] |= rows
    touching[:, 1:] |= columns
    touching[:, :-1] |= columns
    near_others, near_own = (_draw_discs(touching & side, radius) for side in (~mask, mask))
    return np.asarray(np.where(mask, near_others, near_own))


def _draw_discs(centres: Mask, radius: int) -> Mask:
    """The pixels in the disc of any centre, with the discs that OpenCV draws: rows of rounded half widths."""
    height, width = centres.shape
    rows, columns = np.nonzero(centres)
    changes: NDArray[np.int32] = np.zeros((height, width + 1), np.int32)
    for step in range(-radius, radius + 1):
        half = int(np.rint(radius * np.sqrt((radius**2 - step**2) * (1 / radius**2))))
        inside = (rows + step >= 0) & (rows + step < height)
        own, middle = rows[inside] + step, columns[inside]
        np.add.at(changes, (own, np.maximum(middle - half, 0)), 1)
        np.add.at(changes, (own, np.minimum(middle + half + 1, width)), -1)
    return np.asarray(changes.cumsum(1)[:, :-1] > 0)
