"""Scores of the masks of one method: by the protocols of the benchmark, and mask by mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from segrefine.batch.apart import read_apart
from segrefine.batch.journal import read_journal
from segrefine.datasets.notation import ReadingOptions
from segrefine.evaluation.bench.benchmarks import BenchmarkSpec
from segrefine.evaluation.comparison import Comparison, Places, Unread
from segrefine.evaluation.matching import Matched
from segrefine.evaluation.protocols.judging import Judging
from segrefine.evaluation.protocols.table import PROTOCOLS
from segrefine.evaluation.scores import WORSE, Agreement, Score

LEAST, MOST = 0.3, 0.95
"""IoU with the true mask from which and up to which a mask is a coarse one: others miss the object, or are right."""
RULE = f"masks of objects that are there, with an IoU from {LEAST} to {MOST} before refining, not of the whole image"


@dataclass(kw_only=True, eq=False)
class Scored:
    """The masks of one method, judged.

    Attributes:
        name: the method's.
        comparison: of its masks with the true ones.
        scores: of all masks.
        values: what the report says of it.
        unread: images whose masks could not be compared.
    """

    name: str
    comparison: Comparison
    scores: Sequence[Score]
    values: dict[str, Any]
    unread: Sequence[Unread] = field(default_factory=tuple)


class _Notes:
    """Notes on each image: the masks that can be counted one by one, and their scores.

    Args:
        judging: the protocols.
        folder: of the method's masks; those that were kept apart there are judged whole.
    """

    def __init__(self, judging: Sequence[Judging], folder: Path) -> None:
        self._judging, self._folder = judging, folder
        self._counted: set[tuple[str, str]] = set()
        self._apart: dict[tuple[str, str], Agreement] = {}

    def add(self, name: str, sides: Sequence[Matched]) -> None:
        """Judge one image by every protocol."""
        for each in self._judging:
            each.add(name, sides)
        truth, coarse = sides[0], sides[2].masks if len(sides) > 2 else {}
        apart = read_apart(name, self._folder) or {}
        for key, true in truth.masks.items():
            if true.any() and not (key in coarse and coarse[key].all()):
                self._counted.add((name, key))
                if key in apart:
                    counts = np.True_ if truth.ignored is None else ~truth.ignored
                    self._apart[name, key] = Agreement.of(apart[key] & counts, true & counts)

    def pick(self, scores: Sequence[Score]) -> list[Score]:
        """The scores of coarse masks, by `RULE`."""
        return [
            replace(score, after=self._apart.get((score.name, score.key), score.after))
            for score in scores
            if score.counted
            and score.before is not None
            and LEAST <= score.before.iou <= MOST
            and (score.name, score.key) in self._counted
        ]


def score_method(
    spec: BenchmarkSpec, name: str, folder: Path, truth: Path, reading: ReadingOptions, coarse: Path | None,
    images: Path | None,
) -> Scored:  # fmt: skip
    """Score the masks of a method.

    Args:
        spec: the benchmark.
        name: the method's.
        folder: of its masks.
        truth: the benchmark's data.
        reading: how it is read.
        coarse: folder of the coarse masks; None where there are none.
        images: folder of the images; None for where the data has them.

    Raises:
        SegrefineError: nothing can be compared, or the data is of another kind than the protocol's.
    """
    judging = [Judging(PROTOCOLS[each]) for each in spec.protocols]
    comparison = Comparison(Places(predicted=folder, truth=truth, coarse=coarse, images=images, reading=reading))
    for each in judging:
        each.protocol.check(comparison.truth_notation)
    notes = _Notes(judging, folder)
    scores, unread = comparison.score_all(judge=notes.add)
    values: dict[str, Any] = {
        "images": len(comparison.names) - len(unread),
        "failed": len(comparison.failed),
        "unread": [f"{each.name}: {each.message}" for each in unread],
        "protocols": {each.protocol.name: each.summarise()["after"] for each in judging},
        "masks": _mask_by_mask(notes.pick(scores)) if coarse else _alone(scores),
        "seconds_per_image": _seconds(folder),
    }
    return Scored(name=name, comparison=comparison, scores=scores, values=values, unread=unread)


def _mask_by_mask(scores: Sequence[Score]) -> dict[str, Any]:
    """Measures over coarse masks, each for itself; the means of `benchmarks.photographs`."""
    pairs = [(score.before.iou, score.after.iou) for score in scores if score.before]
    count = len(pairs)
    return {
        "rule": RULE,
        "count": count,
        "iou": fmean(after for _, after in pairs) if count else None,
        "iou_before": fmean(before for before, _ in pairs) if count else None,
        "boundary_iou": fmean(score.after.boundary_iou for score in scores) if count else None,
        "made_worse": sum(after < before - WORSE for before, after in pairs) / count if count else None,
        "made_better": sum(after > before + WORSE for before, after in pairs) / count if count else None,
        "unchanged": sum(after == before for before, after in pairs) / count if count else None,
    }


def _alone(scores: Sequence[Score]) -> dict[str, Any]:
    """Measures over all masks, where nobody knows coarse ones."""
    counted = [score for score in scores if score.counted]
    return {
        "rule": "all masks",
        "count": len(counted),
        "iou": fmean(score.after.iou for score in counted) if counted else None,
        "boundary_iou": fmean(score.after.boundary_iou for score in counted) if counted else None,
    }


def _seconds(folder: Path) -> float | None:
    """The median time of an image, from the journal of the run that wrote a folder."""
    seconds = [entry.seconds for entry in read_journal(folder).values() if entry.seconds]
    return median(seconds) if seconds else None
