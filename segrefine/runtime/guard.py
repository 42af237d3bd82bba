"""The guard: it undoes changes of a mask that cannot be trusted.

It judges twice. First it judges each region that refining changed, by what speaks for that change. Changes that are
more probably wrong than right are undone. Then it judges the mask with the changes that are left. Where that mask is
not trusted either, the coarse mask stays. Where evidence moved the mask, it judges what the edge step alone makes of it
too, and takes the better of the two.

Two guards share the work. The free guard looks at coarse mask, colours, edges and shapes, and protects with any model.
The guard of a bundle also knows what that model's evidence is worth in a region; `segrefine tune` fits it. Where the
evidence of the model is worth nothing, the free guard judges alone; in between, their odds are mixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.bundle import Bundle
from segrefine.errors import BundleError, SettingsError
from segrefine.runtime.imaging.edges import logit, sigmoid
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.masked_image import move_to_edges
from segrefine.runtime.refinement import Refinement
from segrefine.runtime.regions import REGION_FEATURES, Numbers, Regions, describe_regions
from segrefine.storage import read_json_object

MASK_FEATURES = (
    "expected", "at_risk", "spread", "expected_to_risk", "expected_to_spread", "added", "removed", "agreement",
    "refused",
)  # fmt: skip
GUARD = "guard.json"
"""Where a bundle keeps the guard that was fitted to its model."""
PIXEL_FEATURES = ("own", "region", "mask", "untrusted")
_MOST_DEVIATIONS = 3.0
"""Features count at most this many standard deviations from their mean in the fit: beyond, nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A logistic regression: log-odds of n features, of their pairs if wanted, and a constant.

    Attributes:
        mean: of each feature in the fit, (k,).
        scale: standard deviation of each feature in the fit, (k,).
        weights: (k + 1,), or (k + k (k + 1) / 2 + 1,) with pairs; the constant comes last.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raises SettingsError where the numbers do not fit together."""
        count = len(self.mean)
        allowed = count + 1, count + count * (count + 1) // 2 + 1
        if len(self.scale) != count or len(self.weights) not in allowed:
            got = f"{len(self.scale)} scales and {len(self.weights)} weights"
            raise SettingsError(expected=f"{count} scales and {allowed[0]} or {allowed[1]} weights", got=got)

    def __call__(self, features: Numbers) -> Numbers:
        """Log-odds, float64 (…,), of features (…, k)."""
        columns = self.columns(features)
        *each, constant = self.weights
        return np.asarray(columns @ np.array(each) + constant, np.float64)

    def columns(self, features: Numbers) -> Numbers:
        """Return the columns of the weights, float64 (…, len(weights) − 1): the scaled features, and their pairs."""
        count = len(self.mean)
        scaled = ((features - np.array(self.mean)) / np.array(self.scale)).clip(-_MOST_DEVIATIONS, _MOST_DEVIATIONS)
        if len(self.weights) == count + 1:
            return np.asarray(scaled)
        first, second = np.triu_indices(count)
        return np.concatenate([scaled, scaled[..., first] * scaled[..., second]], -1)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Classifier of changes into good and bad ones. `guard.json` in a bundle, or the package's own for any model.

    Attributes:
        features: names of the region features that the guard looks at, from `REGION_FEATURES`.
        added: judges a region that was added.
        removed: judges a region that was removed.
        mask: judges what is left of the changes, by `MASK_FEATURES`.
        pixels: judges a pixel, by `PIXEL_FEATURES`.
        margin: least log-odds of a change that stays.
        threshold: least confidence of a mask that replaces the coarse one.
        least_contrast: `contrast` of the flattest image in the fit; in a flatter one nothing is trusted.
        about: on what the guard was fitted: data, number of masks, date, model.
    """

    features: tuple[str, ...]
    added: Judge
    removed: Judge
    mask: Judge
    pixels: Judge
    margin: float
    threshold: float
    least_contrast: float
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises SettingsError where a judge has other features than it should."""
        if unknown := sorted(set(self.features) - set(REGION_FEATURES)):
            raise SettingsError(f"unknown feature {unknown[0]!r}", hint=f"there are: {', '.join(REGION_FEATURES)}")
        lengths = {
            "added": len(self.features), "removed": len(self.features), "mask": len(MASK_FEATURES),
            "pixels": len(PIXEL_FEATURES),
        }  # fmt: skip
        for name, length in lengths.items():
            if (got := len(getattr(self, name).mean)) != length:
                raise SettingsError(subject=name, expected=f"{length} features", got=got)

    def to_dict(self) -> dict[str, Any]:
        """The guard as JSON values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Guard:
        """The guard that `to_dict` wrote.

        Raises:
            SettingsError: a value is missing, unknown, or of another kind.
        """
        try:
            values = dict(raw)
            for name in ("added", "removed", "mask", "pixels"):
                values[name] = Judge(**{key: tuple(map(float, numbers)) for key, numbers in values[name].items()})
            values["features"] = tuple(map(str, values["features"]))
            if unknown := sorted(values.keys() - {entry.name for entry in fields(cls)}):
                raise SettingsError(f"unknown entry {unknown[0]!r}")
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, SettingsError):
                raise
            raise SettingsError(f"this is no guard: {error!r}", hint="`segrefine tune` writes one") from error

    def judge_regions(self, regions: Regions, features: Numbers) -> Numbers:
        """Log-odds that the change of each region is right, float64 (n,).

        Args:
            regions: n of them.
            features: float64 (n, len(REGION_FEATURES)) of each.
        """
        known = features[:, [REGION_FEATURES.index(name) for name in self.features]]
        return np.where(regions.added, self.added(known), self.removed(known))


@cache
def free_guard() -> Guard:
    """The guard that ships with segrefine. It looks at mask and image alone, and protects with any model."""
    from segrefine.assets import free_guard_file

    return Guard.from_dict(read_json_object(free_guard_file(), BundleError, hint="install segrefine again"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """The regions that refining changed, and what the guard holds of each.

    Attributes:
        regions: n of them.
        odds: float64 (n,), log-odds that the change is right.
        margin: least log-odds of a change that stays.
    """

    regions: Regions
    odds: Numbers
    margin: float = 0.0

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Return the mask of changes that stay, bool (n,)."""
        return self.odds > self.margin

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The coarse mask with the changes that stay, (H, W)."""
        return np.where(self.regions.everywhere(self.accepted, False), self.regions.after, self.regions.before)

    @cached_property
    def right(self) -> Numbers:
        """The probability that each change is right, float64 (n,)."""
        return 0.5 + 0.5 * np.tanh(0.5 * self.odds)

    @cached_property
    def shares(self) -> Numbers:
        """The part of both masks' pixels that each change has, float64 (n,)."""
        return self.regions.pixels / max(int((self.regions.before | self.regions.after).sum()), 1)

    @property
    def expected(self) -> float:
        """The IoU that the changes that stay are expected to bring."""
        return float((self.shares * self.accepted) @ (2 * self.right - 1))


def read_guard(bundle: Bundle) -> Guard | None:
    """The guard that was fitted to a bundle's model; None where the bundle has none.

    Raises:
        BundleError: the file is not what the manifest says.
        SettingsError: it holds no guard.
    """
    return Guard.from_dict(bundle.read_json(GUARD)) if GUARD in bundle.manifest.files else None


def guard_changes(image: NDArray[np.uint8], result: Refinement, guard: Guard | None = None) -> Refinement:
    """Undo the changes of a refinement that cannot be trusted, and report how far the rest can be.

    Where evidence moved the mask, the edge step alone has made a second proposal. Of those that are trusted, the one
    that is expected to win more IoU is taken.

    The confidence of a mask is the probability that refining, less what was undone, has not cost it more than 0.02 of
    IoU. That of a pixel is the probability that it is on the right side. In an image flatter than all that the guard
    was fitted on nothing can be judged: the confidence is 0.

    The mask of the result is not disjoint from others; see `divide_pixels`.

    Args:
        image: uint8 (H, W, 3) RGB, the image that was refined: for a result of a crop, that crop.
        result: what refining made of the mask in this image.
        guard: that of the bundle.  [default: the free guard alone]
    """
    first = judge_changes(image, result, guard)
    if not (result.rounds and result.edge_step):
        return _undo_changes(result, first)
    alone = move_to_edges(image, result.coarse, result.confusion)
    by_edges = replace(result, probability=alone, rounds=(), evidence_worth=0.0)
    second = judge_changes(image, by_edges)
    if not second.trusted or (first.trusted and first.judged.expected >= second.judged.expected):
        return _undo_changes(result, first)
    taken = _undo_changes(by_edges, second)
    return replace(taken, rounds=result.rounds, evidence_worth=result.evidence_worth, took_edges=True)


def _undo_changes(result: Refinement, verdict: Verdict) -> Refinement:
    """The refinement with only the changes that a verdict accepts."""
    judged, regions, coarse = verdict.judged, verdict.judged.regions, result.coarse
    accepted = judged.accepted & verdict.trusted
    changed = int(regions.pixels.sum())
    probability = np.where(regions.everywhere(~accepted, False), coarse, result.probability)
    if not accepted.any():
        probability = coarse
    support = describe_pixels(judged, result, verdict.odds, trusted=verdict.trusted)
    certain = _mix(share * each.pixels(support) for each, share in verdict.guards)
    probability = probability.astype(np.float32)
    return replace(
        result,
        mask=probability > 0.5,
        probability=probability,
        confidence=verdict.confidence,
        confidence_threshold=verdict.threshold,
        pixel_confidence=sigmoid(certain.astype(np.float32)).astype(np.float16),
        kept_coarse=not accepted.any(),
        kept_share=float(regions.pixels[~accepted].sum() / changed) if changed else 1.0,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """Verdict of the guards on a refined mask.

    Attributes:
        guards: those that judged, each with its share of the odds.
        judged: the changes, and what the guards hold of each.
        odds: log-odds of the mask with the changes that stay.
        seen: whether the image has the contrast that a judgement takes.
    """

    guards: Sequence[tuple[Guard, float]]
    judged: Judged
    odds: float
    seen: bool

    @property
    def confidence(self) -> float:
        """The probability that the changes that stay have not cost more than 0.02 of IoU; 0 where nothing is seen."""
        return 0.5 + 0.5 * math.tanh(0.5 * self.odds) if self.seen else 0.0

    @property
    def threshold(self) -> float:
        """The least confidence of a mask that replaces the coarse one."""
        return sum(share * each.threshold for each, share in self.guards)

    @property
    def trusted(self) -> bool:
        """Return whether the changes that stay replace the coarse mask. An empty mask is no refined mask."""
        return self.seen and self.confidence >= self.threshold and bool(self.judged.mask.any())


def judge_changes(image: NDArray[np.uint8], result: Refinement, guard: Guard | None = None) -> Verdict:
    """Judge a refinement by the guards; for the arguments see `guard_changes`."""
    known = 0.0 if guard is None or result.evidence_worth is None else result.evidence_worth
    by_worth = ((free_guard(), 1 - known), (guard, known))
    guards = [(each, share) for each, share in by_worth if each is not None and share > 0]
    regions, features = describe_regions(image, result)
    judged = Judged(
        regions=regions,
        odds=_mix(share * each.judge_regions(regions, features) for each, share in guards),
        margin=sum(share * each.margin for each, share in guards),
    )
    described = describe_mask(judged)
    return Verdict(
        guards=guards,
        judged=judged,
        odds=float(sum(share * each.mask(described) for each, share in guards)),
        seen=contrast(result.fit.image) >= min(each.least_contrast for each, _ in guards),
    )


def _mix(weighted: Iterable[Numbers]) -> Numbers:
    """The sum of the guards' odds, each already weighted by its share."""
    return np.asarray(np.sum(list(weighted), axis=0), np.float64)


def contrast(image: NDArray[np.uint8]) -> float:
    """Standard deviation of an image's colours, uint8 (H, W, 3), in [0, 0.5]; 0 of a flat one."""
    return float(np.sqrt(image.reshape(-1, 3).var(0, np.float64).mean()) / 255)


def describe_mask(judged: Judged) -> Numbers:
    """Describe the mask as a whole by the regions that stay, float64, one number for each of `MASK_FEATURES`.

    The first five are of the IoU that the changes are expected to bring: its sum, what of it is lost where they are
    wrong, its standard deviation, and the ratios of the first to the others.
    """
    stays, right, expected = judged.accepted, judged.right, judged.expected
    share = judged.shares * stays
    at_risk = float(share @ (1 - right))
    spread = math.sqrt(float(share**2 @ (right * (1 - right))))
    before, after = judged.regions.before, judged.mask
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
            judged.shares[~stays].sum(),
        ]
    )


def describe_pixels(judged: Judged, result: Refinement, odds: float, *, trusted: bool) -> Numbers:
    """Describe the evidence for the final side of each pixel, float64 (H, W, 4).

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
