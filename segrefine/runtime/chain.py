"""Masks that phrases were found by, refined by G4Seg. The command line, batches and the service all call this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.engine_set import Progress
from segrefine.runtime.files.mask import has_border
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.refinement import Refinement
from segrefine.runtime.segmentation import Segmentation
from segrefine.runtime.words.narrative import label_of


def refine_segments(
    refine: Refiner,
    image: NDArray[np.uint8],
    result: Segmentation,
    *,
    jointly: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Segmentation:
    """Refine the masks of a segmentation with G4Seg, each under the label of its phrase.

    Args:
        refine: the refiner.
        image: uint8 (H, W, 3) RGB, that of the segmentation.
        result: the segmentation.
        jointly: refine all masks together, so that they compete for pixels. Zero-shot phrases compete; those of label
            diffusion may overlap.
        seed: random seed of the noise.
        progress: called before every segment; with `jointly`, after every stage.

    Raises:
        ImageError: the image has another shape or type.
        MaskError: it has another size than that of the segmentation.
        PromptError: a label is too long for the refiner's model.
        NumericalError: an engine gave a value that is not finite.
    """
    if jointly:
        found = [(each.phrase, each.probability) for each in result.segments]
        made = refine_jointly(refine, image, found, seed=seed, progress=progress)
    else:
        made = []
        for number, each in enumerate(result.segments):
            if progress:
                progress(each.phrase, number / len(result.segments))
            made += refine_jointly(refine, image, [(each.phrase, each.probability)], seed=seed)
    pairs = zip(result.segments, made, strict=True)
    segments = tuple(segment if new is None else replace(segment, refined=new.probability) for segment, new in pairs)
    return replace(result, segments=segments)


def refine_jointly(
    refine: Refiner,
    image: NDArray[np.uint8],
    found: Sequence[tuple[str, NDArray[np.float32]]],
    *,
    crop: bool = True,
    guard: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Refinement | None]:
    """Refine the masks of phrases together, each under the label of its phrase. The masks compete for pixels.

    Args:
        refine: the refiner.
        image: uint8 (H, W, 3) RGB.
        found: phrases, each with its mask as a probability, float32 (H, W) in [0, 1].
        crop: see `Refiner.__call__`.
        guard: see `Refiner.__call__`.
        seed: random seed of the noise.
        progress: called after every stage.

    Returns:
        One result for each mask. It is None if the mask is empty or full: such a mask has no border to refine.

    Raises:
        SegrefineError: see `refine_segments`.
    """
    results: list[Refinement | None] = [None] * len(found)
    places = [place for place, (_, mask) in enumerate(found) if has_border(mask > 0.5)]
    if not places:
        return results
    masks = [(label_of(phrase), mask) for phrase, mask in (found[place] for place in places)]
    refined = refine(image, masks, crop=crop, guard=guard, seed=seed, progress=progress)
    for place, each in zip(places, refined, strict=True):
        results[place] = each
    return results
