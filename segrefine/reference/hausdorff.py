"""The pixel-wise Hausdorff distance: how far a descriptor is from the nearest one of a set."""

from __future__ import annotations

import torch
from torch import Tensor

EMPTY = 65504.0
"""The distance to an empty set: the largest float16, so that it survives every precision."""


def pixel_hausdorff(fa: Tensor, fb: Tensor, w: Tensor) -> Tensor:
    """Smallest distance from each row of `fa` to the foreground and to the background rows of `fb`, (B, N, 2) float32.

    Args:
        fa: (B, N, C) descriptors.
        fb: (B, M, C) descriptors.
        w: (B, M); a row of `fb` is foreground where w > 0.5, background elsewhere. The distance to no row is `EMPTY`.
    """
    # Differences, not |a|² + |b|² − 2ab: near a distance of zero the latter keeps only half of float32's digits.
    distance = torch.cdist(fa.float(), fb.float(), compute_mode="donot_use_mm_for_euclid_dist")
    foreground = (w > 0.5).unsqueeze(1)
    to_foreground = distance.masked_fill(~foreground, EMPTY).amin(dim=2)
    to_background = distance.masked_fill(foreground, EMPTY).amin(dim=2)
    return torch.stack([to_foreground, to_background], dim=2)
