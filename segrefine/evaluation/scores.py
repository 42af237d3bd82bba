"""Agreement of masks with the true ones, before refining and after: for a mask, a class, a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from segrefine.datasets.polygons import Mask
from segrefine.errors import MaskError
from segrefine.evaluation.matching import Matched
from segrefine.runtime.imaging.metrics import average_recall, boundary_iou, iou

WORSE = 0.02
"""A mask that loses more IoU than this was made worse by more than chance, as the guard has it."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of one mask with the true one; areas in pixels.

    Attributes:
        iou: intersection over union.
        boundary_iou: of the inner borders.
        intersection: pixels that both have.
        union: pixels that either has.
    """

    iou: float
    boundary_iou: float
    intersection: int
    union: int

    @classmethod
    def of(cls, a: Mask, b: Mask) -> Agreement:
        """Return the agreement of two masks, bool (H, W)."""
        return cls(
            iou=iou(a, b),
            boundary_iou=boundary_iou(a, b),
            intersection=int(np.count_nonzero(a & b)),
            union=int(np.count_nonzero(a | b)),
        )


@dataclass(frozen=True, kw_only=True)
class Score:
    """One mask against the true one.

    Attributes:
        name: of its image.
        key: of the mask among those of the image; see `Matched`.
        label: what it shows; None where nobody says.
        after: of the mask that is judged.
        before: of the coarse mask that it was made of; None where that is not known.
        counted: whether it is a mask for itself; the background of a label map is only a class.
        groups: names of the groups that the data set counts it in.
    """

    name: str
    key: str
    label: str | None
    after: Agreement
    before: Agreement | None = None
    counted: bool = True
    groups: Sequence[str] = ()

    @property
    def gain(self) -> float:
        """Return the gain of refining, in IoU; 0 if the coarse mask is not known."""
        return self.after.iou - self.before.iou if self.before else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The score as JSON values."""
        of_mask = {"label": self.label, "mask": self.key} if self.key else {"label": self.label}
        after = {"iou": self.after.iou, "boundary_iou": self.after.boundary_iou}
        before = {"iou_before": self.before.iou, "boundary_iou_before": self.before.boundary_iou} if self.before else {}
        return {"name": self.name, **of_mask, **after, **before}


def compare(name: str, truth: Matched, predicted: Matched, coarse: Matched | None = None) -> Iterator[Score]:
    """Scores of the masks of one image; a mask that only one side has is empty on the other, and two empty ones agree.

    An annotation that has no usable mask on one side is not compared.

    Args:
        name: of the image.
        truth: the true masks; pixels that they ignore do not count.
        predicted: the masks that are judged.
        coarse: those that they were made of.

    Raises:
        MaskError: they are of different sizes.
    """
    sides = [truth, predicted, coarse] if coarse else [truth, predicted]
    for kind, side in zip(("predicted", "coarse"), sides[1:], strict=False):
        if side.size != truth.size:
            sizes = " and ".join(f"{each[1]}×{each[0]}" for each in (side.size, truth.size))
            raise MaskError(f"{name}: the {kind} and the true mask are {sizes} pixels", hint="they are of one size")
    counts = np.ones(truth.size, np.bool_) if truth.ignored is None else ~truth.ignored
    empty = np.zeros(truth.size, np.bool_)

    def score(key: str, masks: Sequence[Mask], label: str | None, counted: bool = True) -> Score:
        true, *found = (mask & counts for mask in masks)
        after, *before = (Agreement.of(each, true) for each in found)
        first = before[0] if before else None
        groups = truth.groups.get(key, ())
        return Score(name=name, key=key, label=label, after=after, before=first, counted=counted, groups=groups)

    labels = {key: label for side in sides for key, label in side.labels.items()}
    unusable = {key for side in sides for key in side.unusable}
    for key in dict.fromkeys(key for side in sides for key in side.masks if key not in unusable):
        masks = [side.masks.get(key, empty) for side in sides]
        if truth.ignored is None or any((mask & counts).any() for mask in masks):
            yield score(key, masks, labels.get(key))
    if truth.background is not None:
        yield score("", [_background(side) for side in sides], truth.background, counted=False)


def _background(side: Matched) -> Mask:
    found = np.zeros(side.size, np.bool_)
    for mask in side.masks.values():
        found |= mask
    return ~found


def summarise(scores: Sequence[Score], groups: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """The measures over all masks, as JSON values; under "before" the same of the coarse masks, where they are known.

    Args:
        scores: of all masks, and of backgrounds.
        groups: names of groups by the name of each image; None leaves out their average recall.
    """
    masks = [score for score in scores if score.counted]
    values = _measure(scores, lambda score: score.after, groups)
    if not scores or any(score.before is None for score in scores):
        return values
    before = _measure(scores, lambda score: score.before, groups)
    lost = [-score.gain for score in masks]
    return values | {
        "before": before,
        "made_worse": fmean(loss > 0 for loss in lost) if masks else 0.0,
        "made_much_worse": fmean(loss > WORSE for loss in lost) if masks else 0.0,
        "made_better": fmean(loss < 0 for loss in lost) if masks else 0.0,
    }


def _measure(
    scores: Iterable[Score],
    pick: Callable[[Score], Agreement | None],
    groups: Mapping[str, Sequence[str]] | None,
) -> dict[str, Any]:
    members: dict[str, list[float]] = {"overall": []}
    borders: list[float] = []
    classes: dict[str, list[int]] = {}
    for score in scores:
        if (found := pick(score)) is None:
            continue
        if score.label is not None:
            sums = classes.setdefault(score.label, [0, 0, 0])
            classes[score.label] = [sums[0] + found.intersection, sums[1] + found.union, sums[2] + score.counted]
        if score.counted:
            borders.append(found.boundary_iou)
            for group in dict.fromkeys(["overall", *score.groups, *(groups[score.name] if groups else ())]):
                members.setdefault(group, []).append(found.iou)
    shares = {label: sums[0] / sums[1] if sums[1] else 1.0 for label, sums in sorted(classes.items())}
    return {
        "count": len(borders),
        "iou": fmean(members["overall"]) if borders else None,
        "miou": fmean(shares.values()) if shares else None,
        "boundary_iou": fmean(borders) if borders else None,
        "average_recall": {group: average_recall(ious) for group, ious in members.items() if ious},
        "iou_of_classes": shares,
        "masks_of_classes": {label: classes[label][2] for label in shares},
    }
