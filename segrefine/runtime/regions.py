"""What refining changed in a mask, region by region, and what speaks for each change."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.edges import EdgeSettings, colour_index, colour_odds, logit, sharpen
from segrefine.runtime.filters import Floats, pool
from segrefine.runtime.refinement import Refinement

Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]
REGION_FEATURES = (
    "log_area", "thickness", "softness", "text", "text_beside", "paper", "edges_alone", "gain", "discrepancy",
    "colour", "colour_before", "colour_after", "new_border", "old_border", "added", "removed", "text_gap", "text_level",
)  # fmt: skip
"""What is known of a region. Evidence counts for the change: for foreground where it was added, else against it."""
_EVEN = 0.43
"""Text evidence, as a share of the mask's own, that speaks neither for a label nor against it: `text_threshold`."""
_LEAST_GAP = 0.2
_NEIGHBOURS: tuple[tuple[Any, Any], ...] = ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:]))
"""Each pixel with that on its right, and each with that below it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """Where a refined mask differs from the coarse one: pixels that hang together, all added or all removed.

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
    def between(cls, before: Mask, after: Mask) -> Regions:
        """The regions in which two masks, bool (H, W), differ."""
        come, gone = label_regions(after & ~before), label_regions(before & ~after)
        count = int(come.max(initial=0))
        numbers = np.where(gone > 0, gone + count, come)
        pixels = np.bincount(numbers.ravel())[1:]
        return cls(before=before, after=after, numbers=numbers, added=np.arange(len(pixels)) < count, pixels=pixels)

    @cached_property
    def changed(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The places of all changed pixels in a flattened map, in order, and the region of each."""
        places = np.flatnonzero(self.numbers)
        return places, self.numbers.ravel()[places]

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
    regions = Regions.between(coarse > 0.5, result.probability > 0.5)
    found = _evidence(image, result, regions) | _borders(image, regions)
    extent = np.sqrt(max(int(regions.before.sum()), 1))
    found["log_area"] = np.log(regions.pixels) - 2 * np.log(extent)
    found["thickness"] = regions.pixels / found["outline"] / extent
    found["softness"] = regions.mean(np.abs(coarse - 0.5))
    for name, kind in (("added", regions.added), ("removed", ~regions.added)):
        found[name] = np.full(len(kind), regions.pixels[kind].sum() / extent**2)
    return regions, np.stack([found[name] for name in REGION_FEATURES], 1)


def _evidence(image: NDArray[np.uint8], result: Refinement, regions: Regions) -> dict[str, Numbers]:
    """Means over each region of all that was ever held for foreground or against it, signed for the change."""
    fit, coarse = result.fit, result.coarse
    before, after = regions.before, regions.after
    kept, outside = before & after, ~before & ~after
    text = fit.restore(result.text_evidence)
    level = max(float(np.quantile(text[before], 0.9)), 1e-3) if before.any() else 1.0
    text = (text / level).clip(-3, 3)
    within, without = _mean(text, kept if kept.any() else before), _mean(text, outside)
    cell, colours = fit.image.shape[0] // result.text_evidence.shape[0], colour_index(image)
    maps = {
        "text": text - _EVEN,
        "text_beside": (text - without) / max(within - without, _LEAST_GAP) - 0.5,
        "paper": result.paper_probability - 0.5,
        "edges_alone": sharpen(image, coarse, np.zeros_like(coarse), EdgeSettings()) - 0.5,
        "gain": fit.restore(logit(result.rounds[-1].probability) - logit(pool(fit.apply(coarse), cell))),
        "discrepancy": fit.restore(result.rounds[-1].discrepancy),
        "colour": colour_odds(colours, kept if kept.any() else before, outside),
        "colour_before": colour_odds(colours, before, ~before),
        "colour_after": colour_odds(colours, after, ~after),
    }
    signs = np.where(regions.added, 1.0, -1.0)
    found = {name: signs * regions.mean(values) for name, values in maps.items()}
    found["text_gap"] = np.full(len(signs), _mean(text, after) - _mean(text, ~after))
    return found | {"text_level": np.full(len(signs), level)}


def _mean(values: Floats, where: Mask) -> float:
    return float(values[where].mean()) if where.any() else 0.0


def _borders(image: NDArray[np.uint8], regions: Regions) -> dict[str, Numbers]:
    """The sides that each region's outline has, and the colour difference across its new and its old border.

    A region that was added has its new border towards what was outside all along, and its old one towards what was
    inside; one that was removed the other way round. Differences are multiples of the image's root mean square.
    """
    inside, outside = ((regions.before & regions.after).ravel(), (~regions.before & ~regions.after).ravel())
    colour, (height, width) = np.asarray(image / np.float32(255)), image.shape[:2]
    gaps = [_square_length(colour[a] - colour[b]) for a, b in _NEIGHBOURS]
    scale = max(float(np.sqrt(np.mean([gap.mean() for gap in gaps if gap.size] or [0]))), 1e-6)
    numbers, colours, (places, owners) = regions.numbers.ravel(), colour.reshape(-1, 3), regions.changed
    rows, columns = np.divmod(places, width)
    count = len(regions.pixels) + 1
    outline, sides, total = np.zeros(count), np.zeros((2, count)), np.zeros((2, count))
    steps = {1: columns < width - 1, -1: columns > 0, width: rows < height - 1, -width: rows > 0}
    for step, present in steps.items():
        own, others = owners[present], places[present] + step
        gap = np.sqrt(_square_length(colours[places[present]] - colours[others]))
        outline += np.bincount(own[own != numbers[others]], minlength=count)
        for kind, where in enumerate((inside, outside)):
            border = where[others]
            sides[kind] += np.bincount(own[border], minlength=count)
            total[kind] += np.bincount(own[border], gap[border], count)
    to_inside, to_outside = (total / np.maximum(sides, 1) / scale)[:, 1:]
    return {
        "outline": np.maximum(outline[1:], 1),
        "new_border": np.where(regions.added, to_outside, to_inside),
        "old_border": np.where(regions.added, to_inside, to_outside),
    }


def _square_length(vectors: Floats) -> Floats:
    """Of vectors along the last axis, (…, C) → (…)."""
    return np.asarray(np.einsum("...c,...c->...", vectors, vectors))
