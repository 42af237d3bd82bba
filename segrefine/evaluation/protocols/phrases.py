"""Base of the protocols of phrases: each phrase has one mask, and counts for itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from segrefine.datasets.notation import Notation
from segrefine.errors import MaskError
from segrefine.evaluation.matching import Matched
from segrefine.evaluation.protocols.protocol import Mask, OfficialProtocol


@dataclass(frozen=True, kw_only=True)
class PhraseScore:
    """One phrase.

    Attributes:
        intersection: shared area, in pixels of the protocol's grid.
        union: area that either mask has.
        groups: names of the groups that it counts in.
        has_target: whether the phrase names anything in the image.
        is_predicted: whether the prediction has any pixel.
    """

    intersection: float
    union: float
    groups: tuple[str, ...] = ()
    has_target: bool = True
    is_predicted: bool = True

    @property
    def iou(self) -> float:
        """Intersection over union; NaN where both masks are empty."""
        return self.intersection / self.union if self.union else float("nan")


class PhraseProtocol(OfficialProtocol):
    """A protocol that compares one mask for each phrase.

    Attributes:
        benchmarks: names of the benchmarks whose phrases it judges.
    """

    benchmarks: ClassVar[tuple[str, ...]]

    def check(self, truth: Notation) -> None:
        """Check that the true masks are those of phrases, and of a benchmark that the protocol is for."""
        if not truth.has_phrases:
            raise self.refuse(truth, "phrases with one mask each")
        if not set(self.benchmarks) & set(truth.benchmarks):
            raise self.refuse(truth, self.described)

    @abstractmethod
    def areas(self, truth: Mask, predicted: Mask) -> tuple[float, float]:
        """Intersection and union of two masks, bool (H, W), on the protocol's grid."""

    def judge(self, truth: Matched, predicted: Matched) -> list[PhraseScore]:
        """Judge the phrases of one image; a phrase without a prediction has an empty one."""
        return list(self._judge_all(truth, predicted))

    def _judge_all(self, truth: Matched, predicted: Matched) -> Iterator[PhraseScore]:
        empty = np.zeros(truth.size, np.bool_)
        for key, true in truth.masks.items():
            if key in predicted.unusable:
                raise MaskError(predicted.unusable[key], hint="every phrase needs a mask, which may be empty")
            found = predicted.masks.get(key, empty)
            intersection, union = self.areas(true, found)
            yield PhraseScore(
                intersection=intersection, union=union, groups=tuple(truth.groups.get(key, ())),
                has_target=bool(true.any()), is_predicted=bool(found.any()),
            )  # fmt: skip


def list_all(judged: Iterator[Sequence[PhraseScore]] | Sequence[Sequence[PhraseScore]]) -> list[PhraseScore]:
    """The phrases of all images in one list."""
    return [each for image in judged for each in image]
