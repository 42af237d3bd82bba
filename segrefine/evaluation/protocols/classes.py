"""Semantic segmentation: mean IoU over a confusion matrix of label maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.datasets.class_lists import CLASS_LISTS
from segrefine.datasets.classes import ClassList
from segrefine.datasets.notation import Notation, ReadingOptions
from segrefine.errors import MaskError
from segrefine.evaluation.matching import Matched
from segrefine.evaluation.protocols.protocol import Figure, Mask, OfficialProtocol, Summary, share

Counts = NDArray[np.int64]
USUAL = "github.com/rulixiang/ToCo, utils/evaluate.py; github.com/linyq2117/CLIP-ES, eval_cam.py"
MMSEG = "github.com/open-mmlab/mmsegmentation 0.30.0, mmseg/core/evaluation/metrics.py"


class ClassProtocol(OfficialProtocol):
    """Mean IoU over classes, each over the pixels of all images. Pixels of no class in the truth do not count.

    A predicted pixel of no class is wrong wherever the truth has a class.

    Args:
        name: what users call it.
        described: the data set.
        classes: name of the class list.
        with_background: whether pixels that no class claims are a class of their own.
        absent_count: whether a class that is predicted and never true counts, with an IoU of 0.
        source: the official code.
    """

    def __init__(
        self, name: str, described: str, classes: str, *, with_background: bool, absent_count: bool, source: str
    ) -> None:
        self.name, self.described, self.source = name, described, source
        self._name_of_list = classes
        self._list, self._with_background, self._absent_count = CLASS_LISTS[classes], with_background, absent_count
        background = [self._list.background] if with_background and self._list.background else []
        self.classes: list[str] = [*background, *(self._list.names[index] for index in sorted(self._list.names))]

    @property
    def class_list(self) -> ClassList:
        """The classes with their indices."""
        return self._list

    def check(self, truth: Notation) -> None:
        """Check that the true masks are told apart by classes."""
        if not truth.names_classes or truth.has_phrases:
            raise self.refuse(truth, f"label maps with the classes of {self.described}")

    def complete(self, reading: ReadingOptions) -> ReadingOptions:
        """The same with the protocol's class list, where nobody names another."""
        return reading if reading.classes is not None else replace(reading, classes=self._name_of_list)

    def judge(self, truth: Matched, predicted: Matched) -> Counts:
        """Count pixels by true class (rows) and predicted class; the last column is of no class."""
        true, found = self._indices(truth, "true"), self._indices(predicted, "predicted")
        counts = true >= 0
        if truth.ignored is not None:
            counts &= ~truth.ignored
        count = len(self.classes)
        rows, columns = true[counts].astype(np.int64), found[counts].astype(np.int64)
        columns[columns < 0] = count
        pairs = np.bincount(rows * (count + 1) + columns, minlength=count * (count + 1))
        return pairs.reshape(count, count + 1)

    def _indices(self, side: Matched, kind: str) -> NDArray[np.int16]:
        """The place of each pixel's class in `classes`, int16 (H, W); -1 for none."""
        places = {name: place for place, name in enumerate(self.classes)}
        indices = np.full(side.size, -1, np.int16)
        claimed: Mask = np.zeros(side.size, np.bool_)
        for key, mask in side.masks.items():
            name = side.labels.get(key, key)
            if name not in places:
                hint = f"--protocol {self.name} takes the classes of {self._list.origin}; --classes names another list"
                raise MaskError(f"the {kind} masks have the class {name!r}, which {self.name} lacks", hint=hint)
            if (claimed & mask).any():
                hint = "give each pixel one class; write label maps, or class activation maps"
                raise MaskError(f"the {kind} masks of {name!r} and another class overlap", hint=hint)
            claimed |= mask
            indices[mask] = places[name]
        if self._with_background:
            indices[~claimed if side.ignored is None else ~claimed & ~side.ignored] = 0
        return indices

    def summarise(self, judged: Iterable[Any]) -> Summary:
        """Sum up the counts of all images."""
        count = len(self.classes)
        pairs: Counts = np.zeros((count, count + 1), np.int64)
        for each in judged:
            pairs += each
        true, found, right = pairs.sum(1), pairs[:, :-1].sum(0), np.diag(pairs)
        union = true + found - right
        counted = (union > 0) if self._absent_count else (true > 0)
        shares = {name: share(right[i], union[i]) for i, name in enumerate(self.classes) if union[i]}
        accuracies = [right[i] / true[i] for i in range(count) if true[i]]
        ious = [right[i] / union[i] for i in range(count) if counted[i]]
        return {
            "classes": count,
            "miou": float(np.mean(ious)) if ious else None,
            "pixel_accuracy": share(right.sum(), true.sum()),
            "mean_accuracy": float(np.mean(accuracies)) if accuracies else None,
            "iou_of_classes": shares,
            "absent_classes": [name for i, name in enumerate(self.classes) if not true[i]],
        }

    def figures(self, summary: Mapping[str, Any]) -> list[Figure]:
        """Mean IoU, then the accuracies."""
        names = {"miou": "mIoU", "mean_accuracy": "mean accuracy", "pixel_accuracy": "pixel accuracy"}
        return [Figure(key=(key,), title=title) for key, title in names.items()]
