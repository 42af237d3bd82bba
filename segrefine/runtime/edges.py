"""From soft evidence to a sharp edge: the probability follows the colours of the full-resolution image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.runtime.filters import box_blur, gaussian_blur

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EdgeSettings:
    """How coarse mask, gained evidence and colours weigh against each other. Values: measured on validation scenes.

    Attributes:
        fine_weight: weight of the coarse mask's log-odds close to its border.
        broad_weight: weight of the coarse mask's log-odds, blurred over `broad_reach`.
        broad_reach: standard deviation of that blur, over the square root of the mask's area.
        gain_weight: weight of the log-odds that the diffusion model added.
        colour_weight: weight of the colour models' log-odds.
        colour_limit: largest log-odds that colour may claim for a pixel.
        smoothness: log-odds that agreeing neighbours add where there is no edge between them.
        contrast: colour difference, in multiples of the image's root mean square, at which neighbours part.
        rounds: times the colour models are fitted anew.
        iterations: mean-field iterations in each round.
        working_side: larger images are cut at this size, and the cut is carried to full size by a guided filter,
            pixels.
    """

    fine_weight: float = 0.1
    broad_weight: float = 0.3
    broad_reach: float = 0.32
    gain_weight: float = 1.0
    colour_weight: float = 0.9
    colour_limit: float = 2.5
    smoothness: float = 5.0
    contrast: float = 1.2
    rounds: int = 5
    iterations: int = 6
    working_side: int = 512


def sharpen(image: NDArray[np.uint8], coarse: Floats, gain: Floats, settings: EdgeSettings) -> Floats:
    """Foreground probability (H, W) in [0, 1]: the coarse mask, moved by the evidence gained and by the image's edges.

    Args:
        image: uint8 (H, W, 3) RGB.
        coarse: float32 (H, W) probability in [0, 1].
        gain: float32 (H, W) log-odds of foreground that the diffusion model added to the coarse mask.
        settings: weights.
    """
    scale = min(1.0, settings.working_side / max(image.shape[:2]))
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        size = width, height
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
        low = sharpen(small, _resize(coarse, size), _resize(gain, size), settings)
        return _guided_upsampling(image, small, low)
    extent = math.sqrt(max(int(np.count_nonzero(coarse > 0.5)), 4))
    fine, broad = (gaussian_blur(coarse, max(0.5, reach * extent)) for reach in (0.06, settings.broad_reach))
    logits = settings.fine_weight * logit(fine) + settings.broad_weight * logit(broad) + settings.gain_weight * gain
    return follow_edges(image, logits, settings)


def follow_edges(image: NDArray[np.uint8], logits: Floats, settings: EdgeSettings) -> Floats:
    """Foreground probability (H, W) in [0, 1], with its border moved to the image's edges.

    Mean-field inference in a conditional random field: unary terms are the evidence and two colour models (histograms
    of foreground and background, learned from the current probability as in GrabCut, Rother et al. 2004); pairwise
    terms join near pixels of like colour.

    Args:
        image: uint8 (H, W, 3) RGB.
        logits: evidence as log-odds of foreground, float32 (H, W).
        settings: weights.
    """
    colours = _colour_index(image)
    bonds = _bonds(image, settings.contrast)
    probability = sigmoid(logits)
    for _ in range(settings.rounds):
        odds = _colour_odds(colours, probability, settings.colour_limit)
        unary = logits + settings.colour_weight * odds
        for _ in range(settings.iterations):
            probability = sigmoid(unary + settings.smoothness * _agreement(bonds, 2 * probability - 1))
    return probability


def sigmoid(logits: Floats) -> Floats:
    """Probability of log-odds, element by element; does not overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits), np.float32)


def logit(probability: Floats) -> Floats:
    """Log-odds, with probabilities kept 0.02 away from 0 and 1."""
    kept = np.clip(probability, 0.02, 0.98)
    return np.asarray(np.log(kept / (1 - kept)), np.float32)


def _lightness(image: NDArray[np.uint8]) -> Floats:
    return np.asarray(image.mean(-1) / 255, np.float32)


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
_OFFSETS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2), (2, -2))


def _colour_index(image: NDArray[np.uint8]) -> NDArray[np.intp]:
    bins = (image // (256 // _BINS)).astype(np.intp)
    return (bins[..., 0] * _BINS + bins[..., 1]) * _BINS + bins[..., 2]


def _colour_odds(colours: NDArray[np.intp], probability: Floats, limit: float) -> Floats:
    """Log-odds of foreground by colour alone, from smoothed histograms weighted with the probability."""
    histograms = []
    for weight in (probability, 1 - probability):
        counts = np.bincount(colours.ravel(), weight.ravel(), _BINS**3).astype(np.float64).reshape([_BINS] * 3)
        for axis in range(3):
            counts = _smooth(counts, axis)
        histograms.append(counts / max(counts.sum(), 1e-6) + 2e-4)
    odds = np.log(histograms[0] / histograms[1]).ravel()[colours]
    return np.asarray(np.clip(odds, -limit, limit), np.float32)


def _smooth(counts: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    padded = np.pad(counts, [(1, 1) if a == axis else (0, 0) for a in range(3)])
    count = counts.shape[axis]
    before, here, after = (np.take(padded, range(i, i + count), axis) for i in range(3))
    return 0.25 * before + 0.5 * here + 0.25 * after


def _bonds(image: NDArray[np.uint8], contrast: float) -> list[tuple[tuple[int, int], Floats]]:
    """For each offset the strength, in [0, 1], with which a pixel and the one at that offset hold together."""
    colour = np.asarray(image / 255, np.float32)
    differences = {offset: np.square(_ahead(colour, offset) - _behind(colour, offset)).sum(-1) for offset in _OFFSETS}
    scale = 2 * contrast**2 * max(np.mean([d.mean() for d in differences.values() if d.size] or [0]), 1e-6)
    total = sum(1 / np.hypot(*offset) for offset in _OFFSETS) * 2
    return [(o, (np.exp(-d / scale) / (np.hypot(*o) * total)).astype(np.float32)) for o, d in differences.items()]


def _agreement(bonds: list[tuple[tuple[int, int], Floats]], spin: Floats) -> Floats:
    """Sum over neighbours of bond times their spin, (H, W) in [-1, 1]."""
    total = np.zeros_like(spin)
    for offset, bond in bonds:
        _behind(total, offset)[...] += bond * _ahead(spin, offset)
        _ahead(total, offset)[...] += bond * _behind(spin, offset)
    return total


def _behind(array: Floats, offset: tuple[int, int]) -> Floats:
    """The part of `array` (H, W, …) whose pixels have a partner at `offset` (rows ≥ 0, columns of any sign)."""
    dy, dx = offset
    height, width = array.shape[:2]
    return array[: max(height - dy, 0), max(-dx, 0) : max(width - max(dx, 0), 0)]


def _ahead(array: Floats, offset: tuple[int, int]) -> Floats:
    """The partners at `offset` of the pixels in `_behind`."""
    dy, dx = offset
    height, width = array.shape[:2]
    return array[dy:, max(dx, 0) : max(width + min(dx, 0), 0)]
