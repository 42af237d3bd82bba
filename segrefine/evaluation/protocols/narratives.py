"""Panoptic Narrative Grounding, as its two official evaluations compute it (arXiv 2109.04988 and 2208.05647)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from segrefine.evaluation.protocols.interpolation import Floats, interpolation_matrix, resize
from segrefine.evaluation.protocols.phrases import PhraseProtocol, PhraseScore, list_all
from segrefine.evaluation.protocols.protocol import Figure, Mask, Summary

GROUPS = ("singulars", "plurals", "things", "stuff")
_SIDE = 256
_SHORT, _LONG, _STEP = 800, 1333, 32
_CERTAIN = 1 - 1e-6
"""Weights are multiples of 2^-9, so a value above this is one whose weights all fall on the mask."""


def official_average_recall(ious: Sequence[float]) -> float | None:
    """Average recall as the official code sums it: 99,999 steps of 1e-5 below the curve. None without phrases.

    A phrase whose IoU is undefined counts as not found.
    """
    if not len(ious):
        return None
    thresholds, sums = _steps()
    found = np.array([value for value in ious if value == value])
    return float(sums[np.searchsorted(thresholds, found, side="right")].sum() / len(ious))


@lru_cache(maxsize=1)
def _steps() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The thresholds, and the area below a curve that falls from 1 to 0 after so many of them."""
    thresholds = np.arange(0, 1, 0.00001)
    return thresholds[:-1], np.concatenate([[0.0], np.cumsum(np.diff(thresholds))])


class NarrativeProtocol(PhraseProtocol):
    """Average recall, overall and by group, and the share of phrases with an IoU above one half."""

    described = "Panoptic Narrative Grounding"
    benchmarks = ("png",)

    def summarise(self, judged: Iterable[Sequence[PhraseScore]]) -> Summary:
        """Sum up all phrases."""
        phrases = list_all(list(judged))
        groups = {name: [each.iou for each in phrases if name in each.groups] for name in GROUPS}
        ious = {"overall": [each.iou for each in phrases]} | groups
        return {
            "phrases": {name: len(values) for name, values in ious.items()},
            "average_recall": {name: official_average_recall(values) for name, values in ious.items()},
            "accuracy_at_half": float(np.mean(np.array(ious["overall"]) > 0.5)) if phrases else None,
        }

    def figures(self, summary: Summary) -> list[Figure]:
        """Average recall of all groups, then the accuracy."""
        recalls = [Figure(key=("average_recall", name), title=f"AR {name}") for name in summary["average_recall"]]
        return [*recalls, Figure(key=("accuracy_at_half",), title="acc@0.5")]


class PngBcv(NarrativeProtocol):
    """The first evaluation: masks go to 256×256 pixels and back, and their products are soft.

    A predicted mask keeps, on the small grid, only the pixels that lie wholly in it: the official code resizes whole
    numbers, and the release of torchvision for its PyTorch 1.7.1 cuts their fractions off.
    """

    name = "png-bcv"
    source = "github.com/BCV-Uniandes/PNG, baseline/test_net.py and baseline/utils/meters.py"

    def areas(self, truth: Mask, predicted: Mask) -> tuple[float, float]:
        """Areas of soft masks at the image's size."""
        small = resize(predicted, (_SIDE, _SIDE)) > _CERTAIN
        found = resize(small, (truth.shape[0], truth.shape[1]))
        true = resize(resize(truth, (_SIDE, _SIDE)), (truth.shape[0], truth.shape[1]))
        both = float((found * true).sum())
        return both, float(found.sum() + true.sum()) - both


class PngPpmn(NarrativeProtocol):
    """The evaluation of PPMN and its successors: a quarter of a grid whose shorter side is 800 pixels.

    There, a pixel of the true mask is one that it touches at all. A predicted mask is cut at one half.
    """

    name = "png-ppmn"
    source = "github.com/dzh19990407/PPMN, train_net.py and utils/meters.py"

    def areas(self, truth: Mask, predicted: Mask) -> tuple[float, float]:
        """Areas of hard masks on the small grid."""
        true, found = _to_quarter(truth) > 0, _to_quarter(predicted) > 0.5
        return float(np.count_nonzero(true & found)), float(np.count_nonzero(true | found))


def _to_quarter(mask: Mask) -> Floats:
    height, width = _shortest_edge(mask.shape[0], mask.shape[1])
    rows, columns = _quarter_matrix(mask.shape[0], height), _quarter_matrix(mask.shape[1], width)
    return np.asarray(rows @ mask.astype(np.float64) @ columns.T)


@lru_cache(maxsize=256)
def _quarter_matrix(source: int, target: int) -> Floats:
    """Resizes one side to `target` pixels, appends empty ones up to a multiple of 32, and takes a quarter."""
    padded = -(-target // _STEP) * _STEP
    enlarged = np.zeros((padded, source))
    enlarged[:target] = interpolation_matrix(source, target)
    return np.asarray(interpolation_matrix(padded, padded // 4) @ enlarged)


def _shortest_edge(height: int, width: int) -> tuple[int, int]:
    """The size at which the shorter side is 800 pixels, and the longer one at most 1333."""
    scale = _SHORT / min(height, width)
    high, wide = (_SHORT, scale * width) if height < width else (scale * height, _SHORT)
    if max(high, wide) > _LONG:
        shrink = _LONG / max(high, wide)
        high, wide = high * shrink, wide * shrink
    return int(high + 0.5), int(wide + 0.5)
