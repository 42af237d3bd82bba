"""Fit of a guard's weights: logistic regressions, judged on images that they do not know.

Images are divided into `FOLDS`. What a region is worth is fitted on all folds but one and judged on that one. So the
regression of the masks, its calibration and its threshold see the errors that regions of other images will have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.guard import (
    Guard,
    Judge,
    Judged,
    describe_mask,
    describe_pixels,
)
from segrefine.runtime.refinement import Refinement
from segrefine.runtime.regions import REGION_FEATURES, Numbers, Regions

WORSE = 0.02
"""A mask that loses more IoU than this was made worse."""
FOLDS = 5
REGION_RIDGE, MASK_RIDGE = 0.05, 1.0
LOSS = 2.0
"""A mask that lost counts so many times as one that won as much: chosen on validation photographs."""
MARGINS = (0.0, 0.25, 0.5, 1.0)
"""Least log-odds of a change that stays: what is tried."""
EVERY = 97
"""One pixel in so many is looked at."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class GuardSample:
    """One refined mask with its truth, and the regions that refining changed.

    Attributes:
        image: the number of its image; masks of one image are not independent.
        truth: bool (H, W), the true mask.
        void: bool (H, W), pixels that do not count.
        regions: what refining changed.
        features: float64 (n, len(REGION_FEATURES)) of each region.
        result: the refinement, before the guard.
        contrast: of the image; see `segrefine.runtime.guard.contrast`.
        group: masks of one group must not be made worse more often than `most_worse` allows, whatever other groups do.
    """

    image: int
    truth: Mask
    void: Mask
    regions: Regions
    features: Numbers
    result: Refinement
    contrast: float
    group: str = ""

    def iou(self, mask: Mask) -> float:
        """Intersection over union with the truth, over the pixels that count; 1 where both are empty."""
        union = ((mask | self.truth) & ~self.void).sum()
        return float((mask & self.truth & ~self.void).sum() / union) if union else 1.0

    def gain(self, mask: Mask) -> float:
        """The IoU that a mask has above the coarse one's."""
        return self.iou(mask) - self.iou(self.regions.before)


def fit_guard(
    samples: Sequence[GuardSample],
    features: Sequence[str],
    *,
    most_worse: float,
    pairs: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Guard:
    """A guard that makes at most a given share of the masks worse, in every group of samples.

    Args:
        samples: refined masks with their truth.
        features: names of the region features that the guard may look at.
        most_worse: greatest share of masks made worse, in [0, 1].
        pairs: whether regions and masks are judged by pairs of features too. It takes hundreds of images.
        about: what the guard is to say of itself.
    """
    folds = _divide_images([sample.image for sample in samples])
    columns = [REGION_FEATURES.index(name) for name in features]
    judges = [
        _fit_regions([s for s, fold in zip(samples, folds, strict=True) if fold != k], columns, pairs=pairs)
        for k in range(FOLDS)
    ]
    odds = [_judge(sample, judges[fold], columns) for sample, fold in zip(samples, folds, strict=True)]
    trials = [_fit_masks(samples, odds, folds, margin, most_worse, pairs=pairs) for margin in MARGINS]
    best = max(trials, key=lambda trial: trial.gain)
    added, removed = _fit_regions(samples, columns, pairs=pairs)
    return Guard(
        features=tuple(features),
        added=added,
        removed=removed,
        mask=best.judge,
        pixels=_fit_pixels(samples, best),
        margin=best.margin,
        threshold=round(best.threshold, 4),
        least_contrast=round(min(sample.contrast for sample in samples), 4),
        about=dict(about or {}),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _MaskFit:
    """Judgement of masks if changes need log-odds of `margin`; `gain` is the mean IoU that this brings."""

    margin: float
    judge: Judge
    threshold: float
    judged: Sequence[Judged]
    odds: Numbers
    gain: float

    @property
    def trusted(self) -> Mask:
        """Return the mask of accepted masks, bool (samples,)."""
        return 1 / (1 + np.exp(-self.odds)) >= self.threshold


def _fit_masks(
    samples: Sequence[GuardSample],
    odds: Sequence[Numbers],
    folds: NDArray[np.intp],
    margin: float,
    most_worse: float,
    *,
    pairs: bool,
) -> _MaskFit:
    """A judge of masks, its calibration, and the threshold that keeps the share made worse in bounds."""
    judged = [Judged(regions=s.regions, odds=each, margin=margin) for s, each in zip(samples, odds, strict=True)]
    gain = np.array([sample.gain(each.mask) for sample, each in zip(samples, judged, strict=True)])
    described = np.stack([describe_mask(each) for each in judged])
    blank = _blank_judge(described, pairs=pairs)
    columns = blank.columns(described)
    score = np.zeros(len(samples))
    for k in range(FOLDS):
        known = folds != k
        score[~known] = _weigh(columns[~known], _rank(columns[known], gain[known]))
    slope, constant = fit_logistic(score[:, None], gain >= -WORSE, np.ones(len(gain)))
    of_masks = slope * score + constant
    confidence = 1 / (1 + np.exp(-of_masks))
    groups = np.array([sample.group for sample in samples])
    threshold = max(
        _find_threshold(confidence[groups == group], gain[groups == group], most_worse) for group in set(groups)
    )
    weights = slope * _rank(columns, gain)
    weights[-1] += constant
    return _MaskFit(
        margin=margin,
        judge=replace(blank, weights=_rounded(weights)),
        threshold=threshold,
        judged=judged,
        odds=of_masks,
        gain=float(np.where(confidence >= threshold, gain, 0).mean()),
    )


def _find_threshold(confidence: Numbers, gain: Numbers, most_worse: float) -> float:
    """The least confidence from which on at most a share of all masks is made worse."""
    order = np.argsort(-confidence)
    lost = np.cumsum(gain[order] < -WORSE) / len(gain)
    kept = int(np.searchsorted(lost, most_worse, side="right"))
    return float(confidence[order[kept - 1]]) if kept else 1.0


def _divide_images(images: Sequence[int]) -> NDArray[np.intp]:
    """The fold of each sample; those of one image share it."""
    names, member = np.unique(images, return_inverse=True)
    return (np.random.default_rng(0).permutation(len(names)) % FOLDS)[member]


def _judge(sample: GuardSample, judges: tuple[Judge, Judge], columns: Sequence[int]) -> Numbers:
    """Log-odds that each change of a sample is right, as judges of added and of removed regions have it."""
    known = sample.features[:, columns]
    added, removed = judges
    return np.where(sample.regions.added, added(known), removed(known))


def _fit_regions(samples: Sequence[GuardSample], columns: Sequence[int], *, pairs: bool) -> tuple[Judge, Judge]:
    """Judges of added and of removed regions. Each region counts by its share of the mask.

    A region that is right in parts counts as both, each by its part.
    """
    features = np.concatenate([sample.features[:, columns] for sample in samples])
    added = np.concatenate([sample.regions.added for sample in samples])
    right, share = [], []
    for sample in samples:
        hits = sample.regions.mean(sample.truth)
        counted = 1 - sample.regions.mean(sample.void)
        right.append(np.where(sample.regions.added, hits, 1 - hits))
        share.append(sample.regions.pixels * counted / max(int((sample.truth | sample.regions.before).sum()), 1))
    rightness, shares = np.concatenate(right), np.concatenate(share)

    def fit(which: NDArray[np.bool_]) -> Judge:
        blank = _blank_judge(features[which], pairs=pairs)
        twice = np.tile(blank.columns(features[which]), (2, 1))
        truth = np.repeat([True, False], which.sum())
        counts = np.concatenate([shares[which] * rightness[which], shares[which] * (1 - rightness[which])])
        weights = fit_logistic(twice, truth, counts, ridge=REGION_RIDGE)
        return replace(blank, weights=_rounded(weights))

    return fit(added), fit(~added)


def _blank_judge(features: Numbers, *, pairs: bool) -> Judge:
    """A judge of features (n, k) that holds nothing of them yet; it scales them, and may pair them."""
    count = features.shape[1]
    size = count + count * (count + 1) // 2 if pairs else count
    mean, scale = _rounded(features.mean(0)), _rounded(_spread(features))
    return Judge(mean=mean, scale=scale, weights=(0.0,) * (size + 1))


def _rank(features: Numbers, gain: Numbers) -> Numbers:
    """Weights that tell masks which won from those which lost, each by how much. A loss counts more than a gain."""
    counts = np.where(gain > 0, gain + WORSE, LOSS * (3 * WORSE - gain))
    return fit_logistic(features, gain > 0, counts, ridge=MASK_RIDGE)


def _fit_pixels(samples: Sequence[GuardSample], fit: _MaskFit) -> Judge:
    """A judge of whether a pixel is right in the end."""
    features, right = [], []
    for sample, each, of_mask, stays in zip(samples, fit.judged, fit.odds, fit.trusted, strict=True):
        described = describe_pixels(each, sample.result, float(of_mask), trusted=bool(stays))
        final = each.mask if stays else each.regions.before
        counted = ~sample.void.ravel()[::EVERY]
        features.append(described.reshape(-1, described.shape[-1])[::EVERY][counted])
        right.append((final == sample.truth).ravel()[::EVERY][counted])
    stacked, truth = np.concatenate(features), np.concatenate(right)
    mean, scale = stacked.mean(0), _spread(stacked)
    weights = fit_logistic(((stacked - mean) / scale).clip(-3, 3), truth, np.ones(len(truth)))
    return Judge(mean=_rounded(mean), scale=_rounded(scale), weights=_rounded(weights))


def fit_logistic(features: Numbers, truth: Mask, weights: Numbers, *, ridge: float = 0.0) -> Numbers:
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
    for _ in range(30):
        expected = 1 / (1 + np.exp(-np.clip(columns @ found, -30, 30)))
        slope = columns.T @ (weights * (expected - truth)) + penalty @ found
        curve = (columns * (weights * expected * (1 - expected))[:, None]).T @ columns + penalty
        step = np.linalg.solve(curve, slope)
        found -= step
        if np.abs(step).max() < 1e-7:
            break
    scaled = found[:-1] / spread
    return np.append(scaled, found[-1] - scaled @ mean)


def _spread(features: Numbers) -> Numbers:
    """The standard deviation of each feature, (n, k) → (k,); 1 for one that hardly varies."""
    deviation = features.std(0)
    return np.where(deviation < 1e-4, 1.0, deviation)


def _weigh(features: Numbers, weights: Numbers) -> Numbers:
    return np.asarray(features @ weights[:-1] + weights[-1])


def _rounded(values: Numbers) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)
