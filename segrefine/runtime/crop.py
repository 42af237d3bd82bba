"""Small objects: where each is refined at the model's resolution, and how the result comes back into the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.files.mask import CheckedMask
from segrefine.runtime.refinement import Floats, Refinement

Part = tuple[slice, slice]
"""Rows and columns."""
SMALL = 0.01
"""Share of the image below which an object is small."""
ROOM = 2.5
"""Side of the part that is refined, as a multiple of the side of the mask's box."""
LEAST_SIDE = 16
"""Least side of that part, in pixels."""


def find_part(mask: CheckedMask) -> Part | None:
    """The part of the image in which a mask is refined; None for the whole image.

    A small object gets a square around it and around all that is in doubt.
    """
    coarse, confusion = mask.probability, mask.confusion
    if (coarse > 0.5).mean() >= SMALL:
        return None
    return find_crop(coarse if confusion is None or confusion.all() else np.maximum(coarse, confusion))


def cut_mask(mask: CheckedMask, part: Part) -> CheckedMask:
    """The mask in a part of the image."""
    confusion = mask.confusion
    return replace(
        mask,
        probability=np.ascontiguousarray(mask.probability[part]),
        confusion=None if confusion is None else np.ascontiguousarray(confusion[part]),
    )


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


def stitch(result: Refinement, coarse: Floats, part: Part) -> Refinement:
    """Put what was refined in a part back into the whole image. Outside of the part the mask stays as it was.

    Args:
        result: the refinement of the part.
        coarse: float32 (H, W), the mask of the whole image.
        part: rows and columns.
    """
    probability = coarse.copy()
    probability[part] = result.probability
    confidence: NDArray[np.float16] | None = None
    if result.pixel_confidence is not None:
        confidence = np.ones(coarse.shape, np.float16)
        confidence[part] = result.pixel_confidence
    return replace(
        result, mask=probability > 0.5, probability=probability, coarse=coarse, pixel_confidence=confidence, part=part
    )
