"""The alignment step: original and mask-conditional features, compared and turned into a new foreground probability."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segrefine.reference.hausdorff import EMPTY, pixel_hausdorff

Hausdorff = Callable[[Tensor, Tensor, Tensor], Tensor]


def align(
    features_original: Tensor,
    features_generated: Tensor,
    foreground: Tensor,
    evidence: Tensor,
    parameters: Tensor,
    hausdorff: Hausdorff = pixel_hausdorff,
) -> tuple[Tensor, Tensor, Tensor]:
    """Discrepancy, estimate and updated probability, each (B, 1, h, w).

        d_fg(i), d_bg(i) = distance of original pixel i to the nearest generated foreground, background pixel
        discrepancy(i)   = max of the directed distances, original to generated and back, each within the pixel's own
        side P̂(i)             = σ((d_bg(i) − d_fg(i)) / temperature + evidence(i))
        P(i)             ← (1 − mixing) P(i) + mixing P̂(i)   in the confusion area |P(i) − ½| < width

    Args:
        features_original: (B, N, C) descriptors of the image's pixels, N = h·w.
        features_generated: (B, N, C) descriptors of the mask-conditional image's pixels.
        foreground: (B, 1, h, w) probability P in [0, 1] under which the image was generated.
        evidence: (B, 1, h, w) further log-odds of foreground, from the text and from the coarse mask.
        parameters: (B, 4): temperature, mixing, width of the confusion area, weight of a pixel's position (see
            `_placed`).
        hausdorff: see `pixel_hausdorff`.
    """
    temperature, mixing, width, position = (column[:, None] for column in parameters.unbind(1))
    p = foreground.flatten(1)
    original, generated = (_placed(f, foreground, position) for f in (features_original, features_generated))
    forward, backward = hausdorff(original, generated, p), hausdorff(generated, original, p)
    directed = torch.stack([forward, backward], 1)
    discrepancy = torch.where((p > 0.5)[:, None], directed[..., 0], directed[..., 1]).amax(1)
    to_foreground, to_background = forward.unbind(2)
    known = (to_foreground < EMPTY) & (to_background < EMPTY)  # a side without pixels says nothing
    gap = torch.where(known, to_background - to_foreground, torch.zeros_like(p))
    estimate = torch.sigmoid(gap / temperature + evidence.flatten(1))
    confused = ((p - 0.5).abs() < width).to(p.dtype)
    updated = p + confused * mixing * (estimate - p)
    discrepancy, estimate, updated = (
        each.unflatten(1, (1, *foreground.shape[2:])) for each in (discrepancy, estimate, updated)
    )
    return discrepancy, estimate, updated


def _placed(features: Tensor, foreground: Tensor, weight: Tensor) -> Tensor:
    """The descriptors (B, N, C + 2) with row and column appended, in units of the grid's height, times `weight`."""
    height, width = foreground.shape[2:]
    rows = torch.arange(height, dtype=features.dtype).view(-1, 1).expand(height, width)
    columns = torch.arange(width, dtype=features.dtype).view(1, -1).expand(height, width)
    place = torch.stack([rows, columns], 2).flatten(0, 1)[None] / height
    return torch.cat([features, weight[:, :, None] * place.expand(features.shape[0], -1, -1)], 2)
