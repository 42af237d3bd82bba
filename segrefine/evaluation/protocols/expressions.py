"""Referring expressions: RefCOCO, RefCOCO+ and RefCOCOg, and gRefCOCO, whose expressions may name nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from segrefine.evaluation.protocols.phrases import PhraseProtocol, PhraseScore, list_all
from segrefine.evaluation.protocols.protocol import Figure, Mask, Summary, share

_SIDE = 480
_PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
_GENERAL_PRECISIONS = (0.7, 0.8, 0.9)


class Refcoco(PhraseProtocol):
    """Mean IoU over expressions, overall IoU over all their pixels, and the share above thresholds.

    Masks are compared at 480×480 pixels, each of which takes the nearest one's value. Two empty masks count as 0.
    """

    name = "refcoco"
    described = "referring expressions of RefCOCO, RefCOCO+ and RefCOCOg"
    benchmarks = ("refcoco", "refcoco+", "refcocog")
    source = "github.com/yz93/LAVT-RIS, test.py"

    def areas(self, truth: Mask, predicted: Mask) -> tuple[float, float]:
        """Areas of hard masks on the square grid."""
        return _areas(_to_square(truth), _to_square(predicted))

    def summarise(self, judged: Iterable[Sequence[PhraseScore]]) -> Summary:
        """Sum up all expressions."""
        phrases = list_all(list(judged))
        ious = np.array([each.iou if each.union else 0.0 for each in phrases])
        return {
            "phrases": len(phrases),
            "mean_iou": float(ious.mean()) if phrases else None,
            "overall_iou": share(sum(each.intersection for each in phrases), sum(each.union for each in phrases)),
            "precision": {f"{at:g}": float((ious >= at).mean()) if phrases else None for at in _PRECISIONS},
        }

    def figures(self, summary: Summary) -> list[Figure]:
        """Overall IoU, mean IoU, and the precisions."""
        return [
            Figure(key=("overall_iou",), title="oIoU"),
            Figure(key=("mean_iou",), title="mIoU"),
            *(Figure(key=("precision", at), title=f"P@{at}") for at in summary["precision"]),
        ]


class Grefcoco(PhraseProtocol):
    """gIoU and cIoU with expressions that name nothing: an empty mask is right there, and any pixel wrong."""

    name = "grefcoco"
    described = "generalised referring expressions (gRefCOCO)"
    benchmarks = ("grefcoco",)
    source = "github.com/henghuiding/ReLA, gres_model/evaluation/refer_evaluation.py"

    def areas(self, truth: Mask, predicted: Mask) -> tuple[float, float]:
        """Areas of hard masks at the image's size."""
        return _areas(truth, predicted)

    def summarise(self, judged: Iterable[Sequence[PhraseScore]]) -> Summary:
        """Sum up all expressions."""
        phrases = list_all(list(judged))
        targeted = [each for each in phrases if each.has_target]
        empty = [each for each in phrases if not each.has_target]
        ious = [each.iou if each.union else 0.0 for each in targeted]
        right = sum(not each.is_predicted for each in empty)
        return {
            "phrases": len(phrases),
            "without_target": len(empty),
            "giou": share(sum(ious) + right, len(phrases)),
            "ciou": share(sum(each.intersection for each in targeted), sum(each.union for each in phrases)),
            "target_accuracy": share(sum(each.is_predicted for each in targeted), len(targeted)),
            "no_target_accuracy": share(right, len(empty)),
            "precision": {
                f"{at:g}": share(sum(iou >= at for iou in ious), len(ious)) for at in _GENERAL_PRECISIONS
            },
        }  # fmt: skip

    def figures(self, summary: Summary) -> list[Figure]:
        """The two IoUs, the two accuracies, and the precisions."""
        names = {"giou": "gIoU", "ciou": "cIoU", "target_accuracy": "T-acc", "no_target_accuracy": "N-acc"}
        return [
            *(Figure(key=(key,), title=title) for key, title in names.items()),
            *(Figure(key=("precision", at), title=f"Pr@{at}") for at in summary["precision"]),
        ]


def _areas(truth: Mask, predicted: Mask) -> tuple[float, float]:
    return float(np.count_nonzero(truth & predicted)), float(np.count_nonzero(truth | predicted))


def _to_square(mask: Mask) -> Mask:
    picture = Image.fromarray(mask.astype(np.uint8))
    return np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)) > 0
