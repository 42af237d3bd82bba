"""Edge step: the probability follows the colours of the full-resolution image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.runtime.imaging.affinity import Bonds
from segrefine.runtime.imaging.filters import Floats, box_blur, gaussian_blur


@dataclass(frozen=True, kw_only=True)
class EdgeSettings:
    """Weights of coarse mask, gained evidence and colours. Values: measured on validation scenes.

    Attributes:
        coarse_weight: weight of the coarse mask's log-odds, blurred a little, beside evidence that is worth something.
        coarse_weight_alone: the same where no evidence was gained: in an image whose colours do not tell the mask from
            the rest, and in one whose colours do.
        separable: difference of colour log-odds, inside less outside, up to which an image is the one, and from which
            it is the other.
        coarse_blur: standard deviation of that blur, over the square root of the mask's area.
        gain_weight: weight of the log-odds that the diffusion model added.
        colour_weight: weight of the colour models' log-odds.
        colour_limit: largest log-odds that colour may claim for a pixel.
        smoothness: log-odds that agreeing neighbours add where there is no edge between them.
        contrast: colour difference, in multiples of the image's root mean square, at which neighbours part.
        rounds: times the colour models are fitted.
        rounds_alone: the same where no evidence was gained: colours alone drift away from a good mask.
        iterations: mean-field iterations in each round.
        first_side: larger images start from the result at half their size, so that borders may move far.
        working_side: larger images are cut at this size, and the cut is carried to full size by a guided filter,
            pixels.
    """

    coarse_weight: float = 0.195
    coarse_weight_alone: tuple[float, float] = (0.8, 0.4)
    separable: tuple[float, float] = (3.5, 4.5)
    coarse_blur: float = 0.043
    gain_weight: float = 0.275
    colour_weight: float = 0.67
    colour_limit: float = 4.1
    smoothness: float = 5.9
    contrast: float = 1.7
    rounds: int = 4
    rounds_alone: int = 2
    iterations: int = 6
    first_side: int = 96
    working_side: int = 512

    def trusting(self, worth: float, separability: float) -> EdgeSettings:
        """The same, with the coarse mask's weight and the rounds for evidence of this worth.

        Args:
            worth: what the evidence is worth, in [0, 1].
            separability: see `measure_separability`.
        """
        low, high = self.separable
        told = min(max((separability - low) / (high - low), 0.0), 1.0)
        alone = (1 - told) * self.coarse_weight_alone[0] + told * self.coarse_weight_alone[1]
        return replace(
            self,
            coarse_weight=worth * self.coarse_weight + (1 - worth) * alone,
            rounds=self.rounds if worth > 0 else self.rounds_alone,
        )


def sharpen(
    image: NDArray[np.uint8], coarse: Floats, gain: Floats, settings: EdgeSettings, *, worth: float | None = None
) -> Floats:
    """Foreground probability (H, W) in [0, 1]: the coarse mask, moved by the evidence gained and by the image's edges.

    Where no evidence speaks, colours and edges move the mask alone. The less the colours tell the mask from the rest,
    the less they may move it.

    Args:
        image: uint8 (H, W, 3) RGB.
        coarse: float32 (H, W) probability in [0, 1].
        gain: float32 (H, W) log-odds of foreground that the diffusion model added to the coarse mask.
        settings: weights.
        worth: what the evidence behind the gain is worth, in [0, 1].  [default: 1 where something was gained, else 0]
    """
    if worth is None:
        worth = float(gain.any())
    separability = measure_separability(image, coarse > 0.5) if worth < 1 else 0.0
    return _sharpen(image, coarse, gain, settings.trusting(worth, separability))


def measure_separability(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Measure how well colours tell a mask, bool (H, W), from the rest: mean log-odds inside less that outside."""
    if mask.all() or not mask.any():
        return 0.0
    odds = colour_odds(colour_index(image), mask, ~mask)
    return float(odds[mask].mean() - odds[~mask].mean())


def _sharpen(image: NDArray[np.uint8], coarse: Floats, gain: Floats, settings: EdgeSettings) -> Floats:
    longest = max(image.shape[:2])
    start = None
    if longest > settings.first_side:
        scale = settings.working_side / longest if longest > settings.working_side else 0.5
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        size = width, height
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
        low = _sharpen(small, _resize(coarse, size), _resize(gain, size), settings)
        if longest > settings.working_side:
            return _guided_upsampling(image, small, low)
        start = _resize(low, (image.shape[1], image.shape[0]))
    extent = math.sqrt(max(int(np.count_nonzero(coarse > 0.5)), 4))
    soft = gaussian_blur(coarse, max(0.5, settings.coarse_blur * extent))
    logits = settings.coarse_weight * logit(soft) + settings.gain_weight * gain
    return follow_edges(EdgeGuide(image, settings), logits, start)


class EdgeGuide:
    """Precomputed data of an image for the edge step; one object works for all maps over the image.

    Attributes:
        settings: weights.
        bonds: between near pixels.
        colours: the bin of each pixel's colour, (H, W).
        everything: the histogram of all pixels.

    Args:
        image: uint8 (H, W, 3) RGB.
        settings: weights.
    """

    def __init__(self, image: NDArray[np.uint8], settings: EdgeSettings) -> None:
        self.settings, self.bonds, self.colours = settings, Bonds(image, settings.contrast), colour_index(image)
        self.everything = _histogram(self.colours, np.ones(self.colours.shape, np.float32))


def follow_edges(guide: EdgeGuide, logits: Floats, start: Floats | None = None) -> Floats:
    """Foreground probability (…, H, W) in [0, 1], with its border moved to the image's edges.

    Mean-field inference in a conditional random field: unary terms are the evidence and two colour models (histograms
    of foreground and background, learned from the current probability as in GrabCut, Rother et al. 2004); pairwise
    terms join near pixels of like colour.

    Args:
        guide: the image, and the weights.
        logits: evidence as log-odds of foreground, float32 (H, W), or several of them (…, H, W).
        start: probability to start from, as many; None for that of the evidence alone.
    """
    settings, bonds = guide.settings, guide.bonds
    lean = np.tanh(0.5 * bonds.line(logits)) if start is None else bonds.line(2 * start - 1)  # 2 · probability − 1
    for _ in range(settings.rounds):
        odds = _colour_odds(guide, bonds.map(0.5 + 0.5 * lean))
        unary = 0.5 * bonds.line(logits + settings.colour_weight * odds)
        for _ in range(settings.iterations):
            lean = np.tanh(unary + np.float32(0.5 * settings.smoothness) * bonds.gather(lean))
    return np.ascontiguousarray(bonds.map(0.5 + 0.5 * lean))


def sigmoid(logits: Floats) -> Floats:
    """Probability of log-odds, element by element; does not overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits), np.float32)


def logit(probability: Floats) -> Floats:
    """Log-odds, with probabilities kept 0.02 away from 0 and 1."""
    kept = np.clip(probability, 0.02, 0.98)
    return np.asarray(np.log(kept / (1 - kept)), np.float32)


def _lightness(image: NDArray[np.uint8]) -> Floats:
    red, green, blue = (image[..., channel].astype(np.float32) for channel in range(3))
    return (red + green + blue) / np.float32(3 * 255)


def _resize(values: Floats, size: tuple[int, int]) -> Floats:
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR), np.float32)


def _guided_upsampling(
    image: NDArray[np.uint8], small: NDArray[np.uint8], low: Floats, radius: int = 4, epsilon: float = 1e-4
) -> Floats:
    """`low`, the probability for `small`, at the size of `image`: fast guided filter (He and Sun 2015) on lightness."""
    guide, fine = _lightness(small), _lightness(image)
    mean_g, mean_p = box_blur(guide, radius), box_blur(low, radius)
    variance = box_blur(guide * guide, radius) - mean_g * mean_g
    slope = np.asarray((box_blur(guide * low, radius) - mean_g * mean_p) / (variance + epsilon), np.float32)
    offset = mean_p - slope * mean_g
    height, width = fine.shape
    full_slope, full_offset = (_resize(box_blur(each, radius), (width, height)) for each in (slope, offset))
    return np.asarray(np.clip(full_slope * fine + full_offset, 0, 1), np.float32)


_BINS = 16
_SMOOTHING = 0.5 * np.eye(_BINS) + 0.25 * np.eye(_BINS, k=1) + 0.25 * np.eye(_BINS, k=-1)


def colour_index(image: NDArray[np.uint8]) -> NDArray[np.intp]:
    """The bin of each pixel's colour, int (H, W), of an image, uint8 (H, W, 3)."""
    red, green, blue = (image[..., channel] // (256 // _BINS) for channel in range(3))
    return (red.astype(np.intp) * _BINS + green) * _BINS + blue


def _colour_odds(guide: EdgeGuide, probability: Floats) -> Floats:
    """Log-odds of foreground by colour alone, from smoothed histograms weighted with the probability (…, H, W)."""
    if probability.ndim > 2:
        return np.stack([_colour_odds(guide, each) for each in probability])
    foreground = _histogram(guide.colours, probability)
    background = np.maximum(guide.everything - foreground, 0)
    return _odds_of_counts(guide.colours, foreground, background, guide.settings.colour_limit)


def colour_odds(
    colours: NDArray[np.intp], foreground: NDArray[np.bool_], background: NDArray[np.bool_], limit: float = 4.0
) -> Floats:
    """Log-odds by which each pixel's colour is like one part of the image rather than another, float32 (H, W).

    Args:
        colours: int (H, W), see `colour_index`.
        foreground: bool (H, W), the one part.
        background: bool (H, W), the other.
        limit: largest log-odds.
    """
    one, other = (_histogram(colours, part.astype(np.float32)) for part in (foreground, background))
    return _odds_of_counts(colours, one, other, limit)


def _odds_of_counts(
    colours: NDArray[np.intp], foreground: NDArray[np.float64], background: NDArray[np.float64], limit: float
) -> Floats:
    shares = [counts / max(counts.sum(), 1e-6) + 2e-4 for counts in (foreground, background)]
    odds = np.log(shares[0] / shares[1]).clip(-limit, limit).astype(np.float32)
    return np.asarray(odds.take(colours))


def _histogram(colours: NDArray[np.intp], weight: Floats) -> NDArray[np.float64]:
    """Smoothed counts of colours, (bins, bins, bins)."""
    counts = np.bincount(colours.ravel(), weight.ravel(), _BINS**3).astype(np.float64).reshape([_BINS] * 3)
    for _ in range(3):  # each time the first axis is smoothed and becomes the last
        counts = (counts.reshape(_BINS, -1).T @ _SMOOTHING).reshape(counts.shape)
    return counts
