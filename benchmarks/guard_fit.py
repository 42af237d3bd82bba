"""How the guard's numbers are found: logistic regressions on validation scenes, judged on scenes they do not know.

Scenes are parted into `FOLDS`. What a region is worth is fitted on all folds but one and judged on that one, so that
the masks' regression, its calibration and its threshold see such errors as regions of other scenes will have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluate import WORSE, Case
from segrefine.runtime.guard import (
    GuardSettings,
    Judged,
    Range,
    contrast,
    describe_mask,
    describe_pixels,
    judge_regions,
    weigh,
)
from segrefine.runtime.metrics import iou
from segrefine.runtime.refinement import Refinement
from segrefine.runtime.regions import Regions

Array = NDArray[np.float64]
MOST_WORSE = 0.025
"""Share of validation masks made worse at which the threshold is set: below the bar, which is for other scenes."""
FOLDS = 5
REGION_RIDGE, MASK_RIDGE = 0.02, 1.0
EVERY = 17
"""One pixel in so many is looked at."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A case, what refining made of it, and the regions that it changed with their features."""

    case: Case
    result: Refinement
    regions: Regions
    features: Array

    def gain(self, mask: NDArray[np.bool_]) -> float:
        """The IoU that a mask has above the coarse one's."""
        return iou(mask, self.case.truth) - iou(self.regions.before, self.case.truth)


def fit_guard(samples: Sequence[Sample]) -> GuardSettings:
    """The guard's numbers: weights of regions, of masks and of pixels, and the threshold."""
    folds = _part_scenes([sample.case.scene for sample in samples])
    judges = [_fit_regions([s for s, fold in zip(samples, folds, strict=True) if fold != k]) for k in range(FOLDS)]
    judged = [judge(sample, judges[fold]) for sample, fold in zip(samples, folds, strict=True)]
    gain = np.array([sample.gain(each.mask) for sample, each in zip(samples, judged, strict=True)])
    features = np.stack([describe_mask(each) for each in judged])
    score = np.zeros(len(samples))
    for k in range(FOLDS):
        score[folds == k] = weigh(features[folds == k], _rank(features[folds != k], gain[folds != k]))
    slope, constant = fit_logistic(score[:, None], gain >= -WORSE, np.ones(len(gain)))
    odds = slope * score + constant
    order = np.argsort(-odds)
    lost = np.cumsum(gain[order] < -WORSE) / len(gain)
    threshold = 1 / (1 + np.exp(-odds[order][np.searchsorted(lost, MOST_WORSE, side="right") - 1]))
    weights = slope * _rank(features, gain)
    weights[-1] += constant
    settings = _fit_regions(samples)
    trusted = 1 / (1 + np.exp(-odds)) >= threshold
    return GuardSettings(
        added=settings.added,
        removed=settings.removed,
        weights=_rounded(weights),
        threshold=round(float(threshold), 3),
        pixels=_fit_pixels(samples, judged, odds, trusted),
        added_range=settings.added_range,
        removed_range=settings.removed_range,
        mask_range=find_range(features),
        least_contrast=round(min(contrast(sample.case.image) for sample in samples), 4),
    )


def _part_scenes(scenes: Sequence[int]) -> NDArray[np.intp]:
    """The fold of each sample; those of one scene share it."""
    names, member = np.unique(scenes, return_inverse=True)
    return (np.random.default_rng(0).permutation(len(names)) % FOLDS)[member]


def judge(sample: Sample, settings: GuardSettings) -> Judged:
    """The changes that refining made to a sample, as the guard has them with these settings."""
    return Judged(regions=sample.regions, odds=judge_regions(sample.regions, sample.features, settings))


def _fit_regions(samples: Sequence[Sample]) -> GuardSettings:
    """Settings whose weights of regions tell right changes from wrong ones; each counts by its share of the mask.

    A region that is right in parts counts as both, each by its part.
    """
    features = np.concatenate([sample.features for sample in samples])
    added = np.concatenate([sample.regions.added for sample in samples])
    right, share = [], []
    for sample in samples:
        hits = sample.regions.mean(sample.case.truth)
        right.append(np.where(sample.regions.added, hits, 1 - hits))
        share.append(sample.regions.pixels / (sample.case.truth | sample.regions.before).sum())
    rightness, shares = np.concatenate(right), np.concatenate(share)

    def fit(which: NDArray[np.bool_]) -> tuple[float, ...]:
        twice, truth = np.tile(features[which], (2, 1)), np.repeat([True, False], which.sum())
        weights = np.concatenate([shares[which] * rightness[which], shares[which] * (1 - rightness[which])])
        return _rounded(fit_logistic(twice, truth, weights, ridge=REGION_RIDGE))

    return GuardSettings(
        added=fit(added), removed=fit(~added),
        added_range=find_range(features[added]), removed_range=find_range(features[~added]),
    )  # fmt: skip


def find_range(features: Array) -> Range:
    """Least and greatest value of each of k features, (n, k)."""
    return _rounded(features.min(0)), _rounded(features.max(0))


def _rank(features: Array, gain: Array) -> Array:
    """Weights that tell masks which won from those which lost, each by how much."""
    return fit_logistic(features, gain > 0, np.abs(gain) + WORSE, ridge=MASK_RIDGE)


def _fit_pixels(
    samples: Sequence[Sample], judged: Sequence[Judged], odds: Array, trusted: NDArray[np.bool_]
) -> tuple[float, ...]:
    """Whether a pixel is right in the end."""
    features, right = [], []
    for sample, each, of_mask, stays in zip(samples, judged, odds, trusted, strict=True):
        described = describe_pixels(each, sample.result, float(of_mask), trusted=bool(stays))
        final = each.mask if stays else each.regions.before
        features.append(described.reshape(-1, described.shape[-1])[::EVERY])
        right.append((final == sample.case.truth).ravel()[::EVERY])
    truth = np.concatenate(right)
    return _rounded(fit_logistic(np.concatenate(features), truth, np.ones(len(truth))))


def fit_logistic(features: Array, truth: NDArray[np.bool_], weights: Array, *, ridge: float = 0.0) -> Array:
    """Weights and, last, the constant of a logistic regression, by Newton's method.

    Args:
        features: (n, k).
        truth: (n,).
        weights: (n,), what each counts.
        ridge: penalty of the squares of weights, those per standard deviation of a feature.
    """
    mean, spread = features.mean(0), features.std(0) + 1e-9
    columns = np.c_[(features - mean) / spread, np.ones(len(features))]
    penalty = np.diag([*[ridge] * features.shape[1], 0.0]) + 1e-6 * np.eye(columns.shape[1])
    found = np.zeros(columns.shape[1])
    for _ in range(50):
        expected = 1 / (1 + np.exp(-np.clip(columns @ found, -30, 30)))
        slope = columns.T @ (weights * (expected - truth)) + penalty @ found
        curve = (columns * (weights * expected * (1 - expected))[:, None]).T @ columns + penalty
        found -= np.linalg.solve(curve, slope)
    scaled = found[:-1] / spread
    return np.append(scaled, found[-1] - scaled @ mean)


def _rounded(values: Array) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
