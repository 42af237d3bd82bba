"""Worth of a diffusion model's evidence on one image: does it know the label at all?

A label that the model knows, and that is in the image,

- changes the prediction: the change counts beside the error that remains;
- changes it otherwise than other words do;
- explains the pixels of the mask better than other words do (the null);
- explains them better than it explains the rest of the image.

One of these is not enough. The words of a model of random weights change little, and all of them the same. A mask over
two objects lowers the last measure, and a picture that happens to show a null word lowers the one before. All are
ratios, so that no scale of latents or errors matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.imaging.filters import Floats
from segrefine.settings import G4SegSettings

NULL_WORDS = ("banana", "boat", "umbrella", "guitar", "chair", "clock")
"""Common nouns that text-to-image models know. The first ones that no label names serve as the null."""
_SEPARATION = 1.85
"""How much separation counts beside the ratio: a logistic fit on validation scenes (`benchmarks/worth.py`)."""
_MOST = 4.0
"""Natural logarithm of the largest ratio that counts."""


def choose_nulls(labels: Sequence[str], settings: G4SegSettings) -> tuple[str, ...]:
    """The null words, none of which has a word in common with a label; none where the worth is not measured."""
    if not settings.measures_worth:
        return ()
    return other_words(labels)[: settings.worth_nulls]


def other_words(labels: Sequence[str]) -> tuple[str, ...]:
    """The null words, none of which has a word in common with a label."""
    taken = {word for label in labels for word in str(label).casefold().split()}
    return tuple(word for word in NULL_WORDS if word not in taken)


@dataclass(frozen=True, kw_only=True)
class WordEffect:
    """Effect of each of P prompts on the prediction of the clean latents (c, h, w), at T noise levels.

    Attributes:
        evidence: float32 (P, h, w), the squared error that the prompt takes away, and its squared change; mean over the
            levels.
        shift: float32 (P, T, c, h, w), what the prompt adds to the prediction, in units of v-prediction.
        error: float32 (h, w), squared, of the prediction without a prompt; mean over the levels.
    """

    evidence: Floats
    shift: Floats
    error: Floats

    @property
    def change(self) -> Floats:
        """Return the squared change of the prediction by each prompt, float32 (P, h, w)."""
        return np.asarray(np.square(self.shift).mean((1, 2)), np.float32)

    def pick(self, number: int) -> WordEffect:
        """The effect of one prompt: P = 1."""
        part = slice(number, number + 1)
        return WordEffect(evidence=self.evidence[part], shift=self.shift[part], error=self.error)


def measure_worth(label: WordEffect, nulls: WordEffect, coarse: Floats, settings: G4SegSettings) -> float:
    """Measure the worth of the evidence for a label, in [0, 1].

    Args:
        label: the effect of the label, P = 1.
        nulls: the effect of K other words, P = K, from the same noise.
        coarse: float32 (h, w) coarse mask as a probability in [0, 1], on the latent grid.
        settings: `worth_range`, `effect_range` and `likeness_range`: where each measure begins to count, and where it
            counts fully.
    """
    inside = coarse >= min(0.5, float(coarse.max()))
    effect = float(label.change[0, inside].mean()) / max(float(label.error[inside].mean()), 1e-12)
    score = compare_words(label.evidence[0], nulls.evidence, inside)
    unlike = 1 - _ramp(measure_likeness(label.shift[0], nulls.shift), settings.likeness_range)
    return unlike * _ramp(effect, settings.effect_range) * _ramp(score, settings.worth_range)


def measure_likeness(label: Floats, nulls: Floats) -> float:
    """The mean cosine between what a label adds to the prediction, float32 (…), and what K other words add, (K, …)."""
    lengths = np.sqrt(np.square(nulls.reshape(len(nulls), -1)).sum(1)) * np.sqrt(np.square(label).sum())
    products = nulls.reshape(len(nulls), -1) @ label.ravel()
    return float((products / np.maximum(lengths, np.finfo(np.float32).tiny)).mean())


def compare_words(label: Floats, nulls: Floats, inside: NDArray[np.bool_]) -> float:
    """Measure how far a label's evidence stands out, against other words and the rest of the image.

    Args:
        label: float32 (h, w), its evidence.
        nulls: float32 (K, h, w), the evidence of other words.
        inside: bool (h, w), the coarse mask.
    """
    of_label = float(np.quantile(label[inside], 0.9))
    of_nulls = float(np.quantile(nulls[:, inside], 0.9, axis=1).mean())
    if of_label <= 0:
        ratio = -_MOST
    elif of_nulls <= 0:
        ratio = _MOST
    else:
        ratio = min(max(math.log(of_label / of_nulls), -_MOST), _MOST)
    spread = float(label.std())
    if inside.all() or not spread:
        return ratio
    separation = (float(label[inside].mean()) - float(label[~inside].mean())) / spread
    return ratio + _SEPARATION * separation


def _ramp(value: float, ends: Sequence[float]) -> float:
    """0 below the first end, 1 above the second, straight in between."""
    low, high = ends
    return min(max((value - low) / (high - low), 0.0), 1.0)
