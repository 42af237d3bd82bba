"""Small objects: the part of the image around the mask is refined at the model's resolution, and stitched back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.engine_set import Progress
from segrefine.runtime.filters import Floats
from segrefine.runtime.guard import divide_pixels, guard, stitch
from segrefine.runtime.image import check_image
from segrefine.runtime.mask import CoarseMask, check_masks, has_border
from segrefine.runtime.pipeline import Refinement, Refiner

Masks = Sequence[tuple[str, Floats | CoarseMask]]
Part = tuple[slice, slice]
SMALL = 0.01
"""Share of the image below which an object is small."""
ROOM = 2.5
"""Side of the part that is refined, over that of the mask's box."""
LEAST_SIDE = 16
"""Of that part, pixels."""


def refine_small(
    refiner: Refiner,
    image: NDArray[np.uint8],
    mask: Floats | CoarseMask,
    label: str,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Refinement:
    """The refined mask of one label; see `refine_masks`."""
    return refine_masks(refiner, image, [(label, mask)], seed=seed, progress=progress)[0]


def refine_masks(
    refiner: Refiner,
    image: NDArray[np.uint8],
    masks: Masks,
    *,
    seed: int = 0,
    crop: bool = True,
    guarded: bool = False,
    progress: Progress | None = None,
) -> tuple[Refinement, ...]:
    """The refined masks of several labels, those of small objects refined in a crop around each.

    The large ones are refined in the whole image, all labels jointly, as without the crop. In the crop of a small one
    the labels that it shares the crop with compete as ever, and only the small one's result is taken. Outside of its
    crop a mask stays as it was; its trace (latents, rounds, evidence) is the crop's, which `part` says.

    Args:
        refiner: the refiner.
        image: uint8 (H, W, 3) RGB.
        masks: labels with their coarse masks; see `Refiner.refine_labels`.
        seed: of the noise.
        crop: whether small objects are refined in a crop.
        guarded: whether changes that cannot be trusted are put back, see `guard`; in a crop it judges the crop.
        progress: told of every stage.

    Raises:
        SegrefineError: see `Refiner.refine_labels`.
    """
    check_image(image)
    given = check_masks(masks, (image.shape[0], image.shape[1]))
    parts: list[Part | None] = [None] * len(masks)
    if crop:
        parts = [_part_of(*each) for each in given]
    run = partial(_refine, refiner, seed=seed, guarded=guarded, progress=progress)
    whole = run(image, masks) if None in parts else ()
    if not any(parts):
        return whole
    results = []
    for number, part in enumerate(parts):
        if part is None:
            results.append(whole[number])
            continue
        rivals = [i for i in range(len(masks)) if i != number and has_border(given[i][0][part] > 0.5)]
        cut = [(masks[i][0], _cut(*given[i], part)) for i in (number, *rivals)]
        own, *_ = run(np.ascontiguousarray(image[part]), cut)
        results.append(stitch(own, given[number][0], part))
    return divide_pixels(results)


def _refine(
    refiner: Refiner, image: NDArray[np.uint8], masks: Masks, *, seed: int, guarded: bool, progress: Progress | None
) -> tuple[Refinement, ...]:
    results = refiner.refine_labels(image, masks, seed=seed, progress=progress)
    if not guarded:
        return results
    began = time.perf_counter()
    judged = guard(image, refiner.fit(image), [each.coarse for each in results], results)
    spent = time.perf_counter() - began
    return tuple(replace(each, seconds={**each.seconds, "guard": spent}) for each in judged)


def _part_of(coarse: Floats, in_doubt: NDArray[np.bool_] | None) -> Part | None:
    """Where a mask is refined: around it and all that is in doubt, where that is a part; None for the whole image."""
    if (coarse > 0.5).mean() >= SMALL:
        return None
    return find_crop(coarse if in_doubt is None or in_doubt.all() else np.maximum(coarse, in_doubt))


def _cut(coarse: Floats, in_doubt: NDArray[np.bool_] | None, part: Part) -> Floats | CoarseMask:
    cut = np.ascontiguousarray(coarse[part])
    return cut if in_doubt is None else CoarseMask(probability=cut, confusion=np.ascontiguousarray(in_doubt[part]))


def find_crop(mask: Floats) -> Part:
    """Rows and columns of a square around the mask, float (H, W), cut off at the image's border.

    Parts of the mask that lie far apart are all in it.
    """
    found = []
    foreground = mask > 0.5
    spans = [np.flatnonzero(foreground.any(axis)) for axis in (1, 0)]
    side = max(LEAST_SIDE, ROOM * max(span[-1] - span[0] + 1 for span in spans))
    for span, length in zip(spans, mask.shape, strict=True):
        first = round((span[0] + span[-1] + 1 - side) / 2)
        found.append(slice(max(0, first), min(length, first + round(side))))
    return found[0], found[1]
