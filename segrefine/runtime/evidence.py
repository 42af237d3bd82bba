"""Evidence for a pixel before any image is generated: the coarse mask and the text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.imaging.affinity import spread
from segrefine.runtime.imaging.edges import logit
from segrefine.runtime.imaging.filters import Floats
from segrefine.settings import G4SegSettings

_MOST = 4.0
"""Largest evidence that counts, as a multiple of the mask's own."""


def gather_evidence(image: NDArray[np.uint8], coarse: Floats, text: Floats, settings: G4SegSettings) -> Floats:
    """Log-odds of foreground, float32 (h, w).

    The text's evidence is evened out along regions of like colour, and counts as a multiple of the mask's own: of the
    ninth decile of the evidence within the coarse mask. So the scale of a model's errors does not matter. What the
    evidence is worth is measured apart; see `segrefine.runtime.worth`.

    Args:
        image: uint8 (H, W, 3) RGB, on the model's pixel grid.
        coarse: float32 (h, w) coarse mask as a probability in [0, 1], on the latent grid.
        text: float32 (h, w) evidence of the text, see `Denoiser.text_evidence`.
        settings: weights.
    """
    s = settings
    if not s.asks_text:
        return np.asarray(s.prior_weight * logit(coarse) + s.bias, np.float32)
    even = spread(image, text, smoothness=s.text_spread, contrast=s.text_contrast)
    inside = coarse >= min(0.5, float(coarse.max()))
    level = float(np.quantile(even[inside], 0.9))
    prior = s.prior_weight * logit(coarse) + s.bias
    if level <= 0:  # the label explains nothing in the mask
        return np.asarray(prior, np.float32)
    relative = (even / level).clip(-_MOST, _MOST)
    return np.asarray(prior + s.text_weight * (relative - s.text_threshold), np.float32)


def doubt_sides(discrepancy: Floats, probability: Floats, weight: float) -> Floats:
    """Log-odds against the side that each pixel is on, float32 (L, h, w), where it disagrees with the generation.

    Only the discrepancy relative to its mean over the image counts, so that the scale of a model's features does not.

    Args:
        discrepancy: float32 (L, h, w), 0 or more.
        probability: float32 (L, h, w) in [0, 1], under which the image was generated.
        weight: log-odds of a certain pixel whose discrepancy is twice the mean.
    """
    mean = discrepancy.mean((1, 2), keepdims=True)
    excess = discrepancy / np.maximum(mean, np.finfo(np.float32).tiny) - 1
    return np.asarray(weight * (1 - 2 * probability) * excess, np.float32)


def against_others(text: Floats, labels: Sequence[str], rivalry: float) -> Floats:
    """The text's evidence for each of L labels less `rivalry` times the mean of that for the others, (L, h, w).

    Args:
        text: float32 (L, h, w), see `Denoiser.text_evidence`.
        labels: L words; masks of one label (instances) are no rivals in this.
        rivalry: 0 leaves every label to itself.
    """
    names = np.array(labels)
    rivals = [text[names != name] for name in names]
    means = np.stack([each.mean(0) if len(each) else np.zeros_like(text[0]) for each in rivals])
    return np.asarray(text - np.float32(rivalry) * means, np.float32)
