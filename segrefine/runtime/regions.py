"""Changes of a mask by refining, region by region, and the evidence for each change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.imaging.edges import EdgeSettings, colour_index, colour_odds, logit, sharpen
from segrefine.runtime.imaging.filters import Floats, pool
from segrefine.runtime.refinement import Refinement

Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]
FREE_FEATURES = (
    "log_area", "thickness", "softness", "edges", "cautious", "colour", "colour_before", "colour_after", "new_border",
    "old_border", "added", "removed", "separable", "border", "border_gain",
)  # fmt: skip
"""What coarse mask, refined mask and image tell of a region. No diffusion model is asked."""
MODEL_FEATURES = ("text", "text_beside", "paper", "gain", "discrepancy", "text_gap", "text_level")
"""What the diffusion model tells of a region; 0 where its evidence was worth nothing."""
REGION_FEATURES = FREE_FEATURES + MODEL_FEATURES
"""Evidence counts for the change: for foreground where the region was added, else against it."""
CAUTIOUS = EdgeSettings(coarse_weight_alone=(2.0, 1.0))
"""An edge step that moves the mask little. A change that it makes too is right more often."""
BESIDE = EdgeSettings(rounds=2)
"""The edge step that a mask is compared with which evidence moved."""
CAUTIOUS_BESIDE = EdgeSettings(coarse_weight=0.8, rounds=2)
"""The same, cautious."""
_LEAST_GAP = 0.2
_NEIGHBOURS: tuple[tuple[Any, Any], ...] = ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:]))
"""Each pixel with that on its right, and each with that below it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """Connected pieces in which a refined mask differs from the coarse one.

    All pixels of a piece were added, or all removed; and a cautious edge step changes all of them, or none.

    Attributes:
        before: bool (H, W), the coarse mask.
        after: bool (H, W), the refined one.
        numbers: int (H, W), from 1; 0 where nothing changed.
        added: bool (n,), whether the region came to the mask or went from it.
        pixels: int (n,), how many it has.
    """

    before: Mask
    after: Mask
    numbers: NDArray[np.intp]
    added: Mask
    pixels: NDArray[np.intp]

    @classmethod
    def between(cls, before: Mask, after: Mask, cautious: Mask) -> Regions:
        """The regions in which two masks, bool (H, W), differ, divided by a third: that of a cautious edge step."""
        numbers = np.zeros(before.shape, np.intp)
        added: list[bool] = []
        for came, changed in ((True, after & ~before), (False, before & ~after)):
            for agreed in (cautious == after, cautious != after):
                found = label_regions(changed & agreed)
                numbers = np.where(found > 0, found + len(added), numbers)
                added += [came] * int(found.max(initial=0))
        pixels = np.bincount(numbers.ravel(), minlength=len(added) + 1)[1:]
        return cls(before=before, after=after, numbers=numbers, added=np.array(added, np.bool_), pixels=pixels)

    @cached_property
    def changed(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The places of all changed pixels in a flattened map, in order, and the region of each."""
        places = np.flatnonzero(self.numbers)
        return places, self.numbers.ravel()[places]

    @cached_property
    def core(self) -> Mask:
        """Return the pixels that both masks hold; the coarse mask if there are none."""
        kept = self.before & self.after
        return kept if kept.any() else self.before

    @cached_property
    def outlines(self) -> Numbers:
        """The number of sides that each region has towards other pixels, at least 1, (n,)."""
        count = len(self.pixels) + 1
        numbers = self.numbers.ravel()
        sides = np.zeros(count)
        for own, _, others in self.neighbours():
            sides += np.bincount(own[own != numbers[others]], minlength=count)
        return np.maximum(sides[1:], 1)

    def neighbours(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]]:
        """Yield for each of four directions: region, place, and neighbour's place of changed pixels that have one."""
        places, owners = self.changed
        height, width = self.numbers.shape
        rows, columns = np.divmod(places, width)
        steps = {1: columns < width - 1, -1: columns > 0, width: rows < height - 1, -width: rows > 0}
        for step, present in steps.items():
            yield owners[present], places[present], places[present] + step

    def mean(self, values: NDArray[Any]) -> Numbers:
        """The mean of a map (H, W) over each region, (n,)."""
        places, owners = self.changed
        return np.bincount(owners, values.ravel()[places], len(self.pixels) + 1)[1:] / self.pixels

    def everywhere(self, values: NDArray[Any], elsewhere: float) -> NDArray[Any]:
        """Each region's value (n,) at all of its pixels, and another elsewhere, (H, W)."""
        return np.concatenate([np.array([elsewhere], values.dtype), values])[self.numbers]


def label_regions(where: Mask) -> NDArray[np.intp]:
    """Numbers of the connected regions (by sides, not by corners) of a map, int (H, W); 0 outside."""
    pixels = int(np.count_nonzero(where))
    places = np.zeros(where.shape, np.intp)
    places[where] = np.arange(pixels)
    bonds = [(places[a][both], places[b][both]) for a, b in _NEIGHBOURS for both in [where[a] & where[b]]]
    first, second = (np.concatenate(ends) for ends in zip(*bonds, strict=True))
    root = np.arange(pixels)
    while True:
        one, other = root[first], root[second]
        apart = one != other
        if not apart.any():
            break
        first, second, one, other = (each[apart] for each in (first, second, one, other))
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while (root != (further := root[root])).any():
            root = further
    numbers = np.zeros(where.shape, np.intp)
    numbers[where] = np.unique(root, return_inverse=True)[1] + 1
    return numbers


def describe_regions(image: NDArray[np.uint8], result: Refinement) -> tuple[Regions, Numbers]:
    """The regions that refining changed, and what speaks for each, float64 (n, len(REGION_FEATURES)).

    Args:
        image: uint8 (H, W, 3) RGB.
        result: what refining made of a mask in this image.
    """
    coarse = result.coarse
    nothing = np.zeros_like(coarse)
    if result.rounds:
        edges = sharpen(image, coarse, nothing, BESIDE, worth=1)
        cautious = sharpen(image, coarse, nothing, CAUTIOUS_BESIDE, worth=1)
    else:
        edges = result.probability
        cautious = sharpen(image, coarse, nothing, CAUTIOUS)
    regions = Regions.between(coarse > 0.5, result.probability > 0.5, cautious > 0.5)
    found = _shapes(regions, coarse) | _colours(image, regions) | _borders(image, regions)
    signs = np.where(regions.added, 1.0, -1.0)
    found["edges"] = signs * regions.mean(edges - 0.5)
    found["cautious"] = signs * regions.mean(cautious - 0.5)
    found |= _evidence(result, regions) if result.rounds else dict.fromkeys(MODEL_FEATURES, np.zeros(len(signs)))
    return regions, np.stack([found[name] for name in REGION_FEATURES], 1)


def _shapes(regions: Regions, coarse: Floats) -> dict[str, Numbers]:
    """Size and form of each region, relative to the coarse mask."""
    extent = np.sqrt(max(int(regions.before.sum()), 1))
    found = {
        "log_area": np.log(regions.pixels) - 2 * np.log(extent),
        "thickness": regions.pixels / regions.outlines / extent,
        "softness": regions.mean(np.abs(coarse - 0.5)),
    }
    for name, kind in (("added", regions.added), ("removed", ~regions.added)):
        found[name] = np.full(len(kind), regions.pixels[kind].sum() / extent**2)
    return found


def _colours(image: NDArray[np.uint8], regions: Regions) -> dict[str, Numbers]:
    """Colour odds of each region for the change, and how well colours tell the coarse mask from the rest."""
    before, after = regions.before, regions.after
    colours = colour_index(image)
    by_coarse = colour_odds(colours, before, ~before)
    maps = {
        "colour": colour_odds(colours, regions.core, ~before & ~after),
        "colour_before": by_coarse,
        "colour_after": colour_odds(colours, after, ~after),
    }
    signs = np.where(regions.added, 1.0, -1.0)
    found = {name: signs * regions.mean(values) for name, values in maps.items()}
    return found | {"separable": np.full(len(signs), _mean(by_coarse, before) - _mean(by_coarse, ~before))}


def _evidence(result: Refinement, regions: Regions) -> dict[str, Numbers]:
    """Return the diffusion model's evidence for each change, scaled by its worth."""
    fit, coarse = result.fit, result.coarse
    before, after = regions.before, regions.after
    text = fit.restore(result.text_evidence)
    level = max(float(np.quantile(text[before], 0.9)), 1e-3) if before.any() else 1.0
    text = (text / level).clip(-3, 3)
    within, without = _mean(text, regions.core), _mean(text, ~before & ~after)
    cell = fit.image.shape[0] // result.text_evidence.shape[0]
    last = result.rounds[-1]
    maps = {
        "text": text - 0.5,
        "text_beside": (text - without) / max(within - without, _LEAST_GAP) - 0.5,
        "paper": result.paper_probability - 0.5,
        "gain": fit.restore(logit(last.probability) - logit(pool(fit.apply(coarse), cell))),
        "discrepancy": fit.restore(last.discrepancy),
    }
    signs = np.where(regions.added, 1.0, -1.0)
    found = {name: signs * regions.mean(values) for name, values in maps.items()}
    found["text_gap"] = np.full(len(signs), _mean(text, after) - _mean(text, ~after))
    return found | {"text_level": np.full(len(signs), level)}


def _mean(values: Floats, where: Mask) -> float:
    return float(values[where].mean()) if where.any() else 0.0


def _borders(image: NDArray[np.uint8], regions: Regions) -> dict[str, Numbers]:
    """The colour difference across the borders of each region, and of the whole mask before and after.

    A region that was added has its new border towards what was outside all along, and its old one towards what was
    inside; one that was removed the other way round. Differences are multiples of the image's root mean square.
    """
    colour = np.asarray(image / np.float32(255), np.float32)
    gaps = [_square_length(colour[a] - colour[b]) for a, b in _NEIGHBOURS]
    scale = max(float(np.sqrt(np.mean([gap.mean() for gap in gaps if gap.size] or [0]))), 1e-6)
    lengths = [np.asarray(np.sqrt(gap) / scale, np.float32) for gap in gaps]
    before = _contrast_across(regions.before, lengths)
    after = _contrast_across(regions.after, lengths)
    to_inside, to_outside = _border_gaps(colour, regions) / scale
    count = len(regions.pixels)
    return {
        "new_border": np.where(regions.added, to_outside, to_inside),
        "old_border": np.where(regions.added, to_inside, to_outside),
        "border": np.full(count, before),
        "border_gain": np.full(count, after - before),
    }


def _contrast_across(mask: Mask, lengths: Sequence[Floats]) -> float:
    """The mean colour difference across the border of a mask; 0 where it has none."""
    crossed = [length[mask[a] != mask[b]] for length, (a, b) in zip(lengths, _NEIGHBOURS, strict=True)]
    along = np.concatenate(crossed)
    return float(along.mean()) if along.size else 0.0


def _border_gaps(colour: Floats, regions: Regions) -> Numbers:
    """Mean colour difference (2, n) of each region towards what was inside all along, and towards what was outside."""
    kinds = (regions.before & regions.after).ravel(), (~regions.before & ~regions.after).ravel()
    colours = colour.reshape(-1, 3)
    count = len(regions.pixels) + 1
    sides, total = np.zeros((2, count)), np.zeros((2, count))
    for own, places, others in regions.neighbours():
        gap = np.sqrt(_square_length(colours[places] - colours[others]))
        for kind, where in enumerate(kinds):
            border = where[others]
            sides[kind] += np.bincount(own[border], minlength=count)
            total[kind] += np.bincount(own[border], gap[border], count)
    return np.asarray((total / np.maximum(sides, 1))[:, 1:])


def _square_length(vectors: Floats) -> Floats:
    """Return the squared length of vectors along the last axis, (…, C) → (…)."""
    return np.asarray(np.einsum("...c,...c->...", vectors, vectors))
