"""Agreement of masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.imaging.filters import Mask, erode


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks, bool (H, W), in [0, 1]; two empty masks agree fully."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def boundary_iou(a: Mask, b: Mask, *, width: int | None = None) -> float:
    """Intersection over union of the inner borders of two masks, bool (H, W), in [0, 1] (arXiv 2103.16562).

    Args:
        a: one mask.
        b: the other, of the same size.
        width: of the borders in pixels; None takes 2 % of the image's diagonal, and 1 at least.
    """
    width = max(1, round(0.02 * float(np.hypot(*a.shape)))) if width is None else width
    return iou(*(mask & ~erode(mask, width) for mask in (a, b)))


def average_recall(ious: Sequence[float] | NDArray[np.floating]) -> float:
    """Area under the curve of recall against the IoU from which an object counts as found, in [0, 1].

    The measure of Panoptic Narrative Grounding (arXiv 2109.04988, section 4.2). Recall at a threshold τ is the share of
    objects with an IoU of τ or more, and its integral over τ is the mean of the IoUs: this is exact, where the curve
    drawn at many thresholds comes near. NaN where there is no object.
    """
    return float(np.mean(ious)) if len(ious) else float("nan")
