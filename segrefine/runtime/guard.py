"""A guard: how far a refined mask can be trusted, and the coarse mask where that is not far enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import MaskError
from segrefine.runtime.edges import logit, sigmoid
from segrefine.runtime.filters import Floats
from segrefine.runtime.grid import FittedImage
from segrefine.runtime.metrics import iou
from segrefine.runtime.pipeline import Refinement, label_map

FEATURES = (
    "agreement", "certainty", "paper_certainty", "added", "removed", "added_text", "removed_text", "text_gap",
    "log_share",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """Weights of what tells good refinements from bad ones. Fitted on validation scenes: `benchmarks/guard.py`.

    Attributes:
        weights: log-odds per unit of each of `FEATURES`.
        bias: log-odds where all of them are 0.
        threshold: least confidence of a mask that replaces the coarse one.
        pixel_weights: log-odds that a pixel is right: per unit of its own |log-odds|, of its mask's, and a constant.
    """

    weights: tuple[float, ...] = (-1.9226, 22.2512, 6.2701, 0.3306, 0.0172, -0.4469, 0.0361, 0.7236, -0.2844)
    bias: float = -20.3642
    threshold: float = 0.914
    pixel_weights: tuple[float, float, float] = (1.2361, 0.2903, -1.8318)


def guard(
    fit: FittedImage,
    coarse: Sequence[Floats],
    results: Sequence[Refinement],
    settings: GuardSettings | None = None,
) -> tuple[Refinement, ...]:
    """The refinements with their confidences; those that cannot be trusted are coarse masks again, and say so.

    The confidence of a mask is the probability that refining has not cost it more than 0.02 of IoU; that of a pixel is
    the probability that it is on the right side. Both are calibrated for the demo model.

    Args:
        fit: the image on the model's grid, `Refiner.fit` of it.
        coarse: float32 (H, W) of each label, the masks that were refined.
        results: what became of them, in the same order.
        settings: weights; None for those that were fitted.

    Raises:
        MaskError: another number of masks than of results.
    """
    if len(coarse) != len(results):
        raise MaskError(f"expected a coarse mask for each of {len(results)} results, got {len(coarse)}")
    settings, guarded = settings or GuardSettings(), []
    for mask, result in zip(coarse, results, strict=True):
        odds = float(np.dot(describe(fit, mask, result), settings.weights)) + settings.bias
        confidence = 0.5 + 0.5 * math.tanh(0.5 * odds)
        kept = confidence < settings.threshold
        probability = mask.astype(np.float32) if kept else result.probability
        own, of_mask, constant = settings.pixel_weights
        right = sigmoid((own * np.abs(logit(result.probability)) + of_mask * odds + constant).astype(np.float32))
        guarded.append(
            replace(
                result, probability=probability, confidence=confidence, kept_coarse=kept,
                pixel_confidence=right.astype(np.float16),
            )
        )  # fmt: skip
    numbers = label_map(np.stack([each.probability for each in guarded]))
    return tuple(replace(each, mask=numbers == i) for i, each in enumerate(guarded, 1))


def describe(fit: FittedImage, coarse: Floats, result: Refinement) -> NDArray[np.float64]:
    """What speaks for a refinement and against it, float64, one number for each of `FEATURES`.

    Args:
        fit: the image on the model's grid.
        coarse: float32 (H, W).
        result: what became of it.
    """
    before, after = coarse > 0.5, result.probability > 0.5
    text = fit.restore(result.text_evidence)
    text = text / max(float(np.quantile(text[before], 0.9)), 1e-3)  # by the mask's own, as the evidence is weighed
    text = text.clip(-3, 3)
    either, area = before | after, max(int(before.sum()), 1)

    def mean(values: Floats, where: NDArray[np.bool_]) -> float:
        return float(values[where].mean()) if where.any() else 0.0

    return np.array(
        [
            iou(before, after),
            mean(np.abs(2 * result.probability - 1), either),
            mean(np.abs(2 * result.paper_probability - 1), either),
            (after & ~before).sum() / area,
            (before & ~after).sum() / area,
            mean(text, after & ~before),
            mean(text, before & ~after),
            mean(text, after) - mean(text, ~after),
            np.log(before.mean() + 1e-3),
        ]
    )
