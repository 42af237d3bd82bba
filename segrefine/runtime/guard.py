"""A guard: how far a refined mask can be trusted, and the coarse mask where that is not far enough.

It judges twice. First each connected region that refining added or removed, by what speaks for that change; those that
are more probably wrong than right are put back. Then the mask with what is left of its changes: where that is not
trusted either, the coarse mask stays as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import SettingsError
from segrefine.runtime.edges import logit, sigmoid
from segrefine.runtime.metrics import iou
from segrefine.runtime.refinement import Refinement
from segrefine.runtime.regions import REGION_FEATURES, Numbers, Regions, describe_regions

MASK_FEATURES = (
    "expected", "at_risk", "spread", "expected_to_risk", "expected_to_spread", "added", "removed", "agreement",
    "refused",
)  # fmt: skip


_HINT = "`python -m benchmarks.guard --fit` finds them"
Range = tuple[tuple[float, ...], tuple[float, ...]]
"""Least and greatest values."""


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """Weights of what tells good changes from bad ones. Fitted on validation scenes: `benchmarks/guard.py`.

    Attributes:
        added: log-odds that a region which was added is right, per unit of each of `REGION_FEATURES`, and a constant.
        removed: the same of a region that was removed.
        weights: log-odds that a mask was not made worse, per unit of each of `MASK_FEATURES`, and a constant.
        threshold: least confidence of a mask that replaces the coarse one.
        pixels: log-odds that a pixel is right, per unit of each that `describe_pixels` gives, and a constant.
        added_range: least and greatest value of each of `REGION_FEATURES` that regions which were added had in the fit;
            beyond them nothing is known, and values are clipped to them. From 493 masks of 188 of the 400 scenes.
        removed_range: the same of regions that were removed.
        mask_range: the same of `MASK_FEATURES`.
        least_contrast: `contrast` of the flattest image in the fit; in a flatter one nothing is trusted.
    """

    added: tuple[float, ...] = (
        0.479, -5.0751, 0.4806, -0.6742, 0.1719, 4.6249, 2.9015, 0.0712, 0.2284, 1.1337, 0.3096, -0.5631, 0.1642,
        0.0163, -0.0867, -0.549, -0.5236, 1.9015, -0.1548,
    )  # fmt: skip
    removed: tuple[float, ...] = (
        -0.242, 8.3253, 2.5223, 0.936, -0.2795, 0.8376, 1.4312, 0.4599, 0.6275, -0.6663, 0.2126, 1.0382, -0.0034,
        -1.0048, -3.6363, -2.4096, 0.5213, -2.5541, 0.0059,
    )  # fmt: skip
    weights: tuple[float, ...] = (
        1.0383, -13.9919, 7.2087, 0.1133, 0.2743, 1.0843, -2.3747, 0.2284, -2.365, 1.8187,
    )  # fmt: skip
    threshold: float = 0.917
    pixels: tuple[float, ...] = (0.678, 0.0393, 0.1629, 0.6428, 0.5586)
    added_range: Range = (
        (
            -7.774, 0.0051, 0.0004, -3.43, -16.5005, -0.4846, -0.499, -3.0474, 0.1381, -2.6328, -2.4654, -2.3096, 0.0,
            0.0, 0.0008, 0.0, -0.7836, 0.0194,
        ),
        (
            0.9742, 0.2352, 0.5, 2.3452, 8.7646, 0.4478, 0.4998, 4.7279, 1.2099, 4.0, 4.0, 4.0, 10.5435, 8.3914, 3.2258,
            0.7308, 0.9064, 0.808,
        ),
    )  # fmt: skip
    removed_range: Range = (
        (
            -7.774, 0.0051, 0.0001, -2.3881, -10.9546, -0.4701, -0.4997, -1.662, -1.1173, -3.5577, -3.6515, -3.3799,
            0.0, 0.0, 0.0, 0.0045, -0.7836, 0.0194,
        ),
        (
            -0.2072, 0.1598, 0.5, 3.43, 14.2504, 0.4902, 0.4998, 5.1729, -0.1145, 4.0, 4.0, 4.0, 10.1814, 6.2509,
            3.2258, 0.8317, 1.271, 0.808,
        ),
    )  # fmt: skip
    mask_range: Range = (
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1683, 0.0),
        (0.7565, 0.2883, 0.3058, 21.3257, 10.3405, 2.6491, 0.8317, 1.0, 0.7156),
    )
    least_contrast: float = 0.0252

    def __post_init__(self) -> None:
        """Raises SettingsError where there are more or fewer weights, or ends of a range, than features."""
        lengths = {
            "added": len(REGION_FEATURES), "removed": len(REGION_FEATURES), "weights": len(MASK_FEATURES), "pixels": 4,
        }  # fmt: skip
        for name, length in lengths.items():
            if len(getattr(self, name)) != length + 1:
                got = f"expected {length} weights and a constant, got {len(getattr(self, name))} numbers"
                raise SettingsError(f"{name}: {got}", hint=_HINT)
        for name, length in (("added_range", lengths["added"]), ("removed_range", lengths["removed"]),
                             ("mask_range", lengths["weights"])):  # fmt: skip
            if [len(side) for side in getattr(self, name)] != [length, length]:
                raise SettingsError(f"{name}: expected {length} least and {length} greatest values", hint=_HINT)


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """The regions that refining changed, and what the guard holds of each.

    Attributes:
        regions: n of them.
        odds: float64 (n,), log-odds that the change is right.
    """

    regions: Regions
    odds: Numbers

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Which changes stay, (n,)."""
        return self.odds > 0

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The coarse mask with the changes that stay, (H, W)."""
        return np.where(self.regions.everywhere(self.accepted, False), self.regions.after, self.regions.before)


def guard_changes(image: NDArray[np.uint8], result: Refinement, settings: GuardSettings | None = None) -> Refinement:
    """Undo the changes of a refinement that cannot be trusted, and report how far the rest can be.

    The confidence of a mask is the probability that refining, less what was undone, has not cost it more than 0.02 of
    IoU. That of a pixel is the probability that it is on the right side. Both are calibrated for the demo model. An
    image flatter than all that they were fitted on shows nothing to judge by: the confidence is 0.

    The mask of the result is not disjoint from others; see `divide_pixels`.

    Args:
        image: uint8 (H, W, 3) RGB, the image that was refined: for a result of a crop, that crop.
        result: what refining made of the mask in this image.
        settings: weights.  [default: the fitted ones]
    """
    settings = settings or GuardSettings()
    coarse = result.coarse
    regions, features = describe_regions(image, result)
    judged = Judged(regions=regions, odds=judge_regions(regions, features, settings))
    odds = float(weigh(describe_mask(judged).clip(*settings.mask_range), settings.weights))
    seen = contrast(result.fit.image) >= settings.least_contrast
    confidence = 0.5 + 0.5 * math.tanh(0.5 * odds) if seen else 0.0
    trusted = seen and confidence >= settings.threshold and bool(judged.mask.any())  # an empty mask is no refined mask
    accepted = judged.accepted & trusted
    changed = int(regions.pixels.sum())
    probability = np.where(regions.everywhere(~accepted, False), coarse, result.probability)
    if not accepted.any():
        probability = coarse
    support = describe_pixels(judged, result, odds, trusted=trusted)
    return replace(
        result,
        probability=probability.astype(np.float32),
        confidence=confidence,
        pixel_confidence=sigmoid(weigh(support, settings.pixels).astype(np.float32)).astype(np.float16),
        kept_coarse=not accepted.any(),
        kept_share=float(regions.pixels[~accepted].sum() / changed) if changed else 1.0,
    )


def judge_regions(regions: Regions, features: Numbers, settings: GuardSettings) -> Numbers:
    """Log-odds that the change of each region is right, float64 (n,).

    Args:
        regions: n of them.
        features: float64 (n, len(REGION_FEATURES)) of each.
        settings: weights.
    """
    added = weigh(features.clip(*settings.added_range), settings.added)
    removed = weigh(features.clip(*settings.removed_range), settings.removed)
    return np.where(regions.added, added, removed)


def contrast(image: NDArray[np.uint8]) -> float:
    """Standard deviation of an image's colours, uint8 (H, W, 3), in [0, 0.5]; 0 of a flat one."""
    return float(np.sqrt(image.reshape(-1, 3).var(0, np.float64).mean()) / 255)


def describe_mask(judged: Judged) -> Numbers:
    """What the regions that stay say of the mask as a whole, float64, one number for each of `MASK_FEATURES`.

    The first five are of the IoU that the changes are expected to bring: its sum, what of it is lost where they are
    wrong, its standard deviation, and the ratios of the first to the others.
    """
    regions, stays = judged.regions, judged.accepted
    all_pixels = max(int((regions.before | regions.after).sum()), 1)
    share = regions.pixels / all_pixels * stays
    right = 0.5 + 0.5 * np.tanh(0.5 * judged.odds)
    expected, at_risk = float(share @ (2 * right - 1)), float(share @ (1 - right))
    spread = math.sqrt(float(share**2 @ (right * (1 - right))))
    before, after = regions.before, judged.mask
    area = max(int(before.sum()), 1)
    return np.array(
        [
            expected,
            at_risk,
            spread,
            expected / (at_risk + 0.01),
            expected / (spread + 0.01),
            (after & ~before).sum() / area,
            (before & ~after).sum() / area,
            iou(after, before),
            regions.pixels[~stays].sum() / all_pixels,
        ]
    )


def describe_pixels(judged: Judged, result: Refinement, odds: float, *, trusted: bool) -> Numbers:
    """What speaks for the side on which each pixel is in the end, float64 (H, W, 4).

    The refined probability's log-odds for that side; those of the region, where it was changed; those of the mask
    where it is trusted; and whether it is not.

    Args:
        judged: the regions.
        result: what refining made of the mask.
        odds: of the mask.
        trusted: whether the changes that were accepted stay.
    """
    final = judged.mask if trusted else judged.regions.before
    own = np.where(final, 1.0, -1.0) * logit(result.probability)
    stays = judged.accepted & trusted
    region = judged.regions.everywhere(np.where(stays, judged.odds, -judged.odds).clip(-5, 5), 0.0)
    whole = np.full(final.shape, odds if trusted else 0.0)
    return np.stack([own, region, whole, np.full(final.shape, float(not trusted))], -1)


def weigh(features: Numbers, weights: Sequence[float] | Numbers) -> Numbers:
    """The weighted sum over the last axis of features (…, k), and the constant, which is the last of k + 1 weights."""
    *each, constant = weights
    return np.asarray(features @ np.array(each) + constant, np.float64)
