"""Numbers of zero-shot segmentation: a model's responses to words become the location of each word.

Two signs say where a word is, and both are standardised over the image:

- the attention that its tokens get (DAAM, arXiv 2210.04885; DiffSegmenter, arXiv 2309.02773);
- how much better it explains a pixel than other words do (DiffEdit, arXiv 2210.11427; diffusion classifiers, arXiv
  2303.16203). A model that was trained for this sign needs no other words: it gives log-odds (`evidence_logit`).

Self-attention says which places belong together. Both signs are spread along it, as in DiffSegmenter and iSeg (arXiv
2409.03209).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.imaging.edges import sigmoid
from segrefine.settings import ZeroShotSettings

Floats = NDArray[np.float32]
_LEAST_RIVALS = 2
"""Other words that a presence takes; of fewer no spread is known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """Responses of the model to the prompts, on the grid (h, w) of its latents and the coarser one of its attention.

    Attributes:
        evidence: float32 (P + K, h, w), the squared error that each of P phrases and K null words takes away.
        error: float32 (h, w), the squared error without words.
        words: float32 (P, rows, columns), the attention that the phrase's tokens get; zeros where it has no weight.
        places: float32 (N, N) with N = rows · columns, how much each place attends to each; rows sum to 1.
    """

    evidence: Floats
    error: Floats
    words: Floats
    places: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class WordMap:
    """Location of a phrase.

    Attributes:
        attention: float32 (rows, columns), the attention of its tokens alone, standardised over the image.
        score: float32 (rows, columns), both signs, spread along self-attention.
        presence: how far the phrase explains its own mask better than any other word does; see `measure_presence`.
            With `evidence_logit` it is the mean score of the mask.
        probability: float32 (rows, columns) in [0, 1]; nowhere above one half where the phrase is absent.
    """

    attention: Floats
    score: Floats
    presence: float
    probability: Floats


def read_word_maps(seen: Seen, settings: ZeroShotSettings) -> list[WordMap]:
    """Locate each phrase.

    Args:
        seen: what the model does.
        settings: weights and thresholds.
    """
    shares = to_grid(seen.evidence / max(float(seen.error.mean()), 1e-12), seen.words.shape[1:])
    scores = []
    for number, words in enumerate(seen.words):
        score = _score_evidence(number, shares, seen.places, settings)
        scores.append(score + np.float32(settings.attention_weight) * standardise(spread(words, seen.places, 1)))
    presences = _measure_presences(scores, shares, seen.places, settings)
    return [
        WordMap(
            attention=standardise(words),
            score=score,
            presence=presence,
            probability=_to_probability(score, presence, settings),
        )
        for words, score, presence in zip(seen.words, scores, presences, strict=True)
    ]


def _score_evidence(number: int, shares: Floats, places: Floats, settings: ZeroShotSettings) -> Floats:
    """Score of each place for a phrase: log-odds, or the standardised lead over other words."""
    if settings.evidence_logit:
        return np.float32(settings.evidence_logit) * spread(shares[number], places, settings.spread_steps)
    evidence = shares[number] - np.delete(shares, number, 0).mean(0)
    return standardise(spread(evidence, places, settings.spread_steps))


def _measure_presences(
    scores: Sequence[Floats], shares: Floats, places: Floats, settings: ZeroShotSettings
) -> list[float]:
    """Presence of each phrase: the mean log-odds of its mask, or what `measure_presence` says beside other words."""
    masks = [score > settings.threshold for score in scores]
    if settings.evidence_logit:
        pairs = zip(scores, masks, strict=True)
        return [float(score[mask].mean()) if mask.any() else -np.inf for score, mask in pairs]
    wide = np.stack([spread(each, places, 2 * settings.spread_steps) for each in shares])
    return [measure_presence(wide[number], np.delete(wide, number, 0), mask) for number, mask in enumerate(masks)]


def measure_presence(own: Floats, others: Floats, mask: NDArray[np.bool_]) -> float:
    """Measure how much better a phrase explains a mask than the best of other words does.

    The unit is how far those words lie apart anywhere in the image: their standard deviation, a root mean square over
    the places. A phrase always explains its own mask well, for that is how the mask was chosen. So does no other word,
    unless the mask shows what that word names.

    Args:
        own: float32 (rows, columns), the evidence for the phrase.
        others: float32 (K, rows, columns), that for other words.
        mask: bool (rows, columns).
    """
    if not mask.any():
        return -np.inf
    if len(others) < _LEAST_RIVALS:
        return np.inf
    margin = own[mask].mean() - others[:, mask].mean(1).max()
    return float(margin / max(float(np.sqrt(others.var(0).mean())), 1e-12))


def _to_probability(score: Floats, presence: float, settings: ZeroShotSettings) -> Floats:
    """A score as a probability; that of an absent phrase is halved, so that its mask is empty."""
    probability = sigmoid(np.float32(settings.sharpness) * (score - np.float32(settings.threshold)))
    return probability if presence >= settings.presence else np.float32(0.5) * probability


def to_grid(maps: Floats, grid: tuple[int, ...]) -> Floats:
    """Means over the cells of a coarser level of the UNet, float32 (…, rows, columns); last cells may be smaller."""
    for axis, cells in ((-2, grid[0]), (-1, grid[1])):
        cell = 1
        while -(-maps.shape[axis] // cell) > cells:
            cell *= 2
        starts = np.arange(cells) * cell
        counts = np.minimum(starts + cell, maps.shape[axis]) - starts
        shape = [1] * maps.ndim
        shape[axis] = cells
        maps = np.asarray(np.add.reduceat(maps, starts, axis) / counts.reshape(shape), np.float32)
    return maps


def spread(values: Floats, places: Floats, steps: int) -> Floats:
    """A map (rows, columns), each of whose places takes the mean of those that it attends to, `steps` times."""
    line = values.reshape(-1)
    for _ in range(steps):
        line = places @ line
    return np.asarray(line.reshape(values.shape), np.float32)


def standardise(values: Floats) -> Floats:
    """A map with mean 0 and standard deviation 1; zeros where it is flat."""
    deviation = float(values.std())
    if deviation <= 1e-6 * float(np.abs(values).max(initial=1e-12)):
        return np.zeros_like(values)
    return np.asarray((values - values.mean()) / deviation, np.float32)
