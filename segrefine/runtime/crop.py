"""Small objects: the part of the image around the mask is refined at the model's resolution, and stitched back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.engine_set import Progress
from segrefine.runtime.filters import Floats
from segrefine.runtime.image import check_image
from segrefine.runtime.mask import check_mask
from segrefine.runtime.pipeline import Refinement, Refiner

SMALL = 0.01
"""Share of the image below which an object is small."""
ROOM = 2.5
"""Side of the part that is refined, over that of the mask's box."""
LEAST_SIDE = 16
"""Of that part, pixels."""


def refine_small(
    refiner: Refiner,
    image: NDArray[np.uint8],
    mask: Floats,
    label: str,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Refinement:
    """The refined mask; that of a small object is refined in a crop around it.

    Outside of the crop the mask stays as it was. The trace of a crop (latents, rounds, evidence) is the crop's.

    Args:
        refiner: the refiner.
        image: uint8 (H, W, 3) RGB.
        mask: float32 (H, W) in [0, 1].
        label: what the mask shows.
        seed: of the noise.
        progress: told of every stage.

    Raises:
        SegrefineError: see `Refiner.__call__`.
    """
    check_image(image)
    check_mask(mask, (image.shape[0], image.shape[1]))
    rows, columns = find_crop(mask)
    if (mask > 0.5).mean() >= SMALL:
        return refiner(image, mask, label, seed=seed, progress=progress)
    part = np.ascontiguousarray(image[rows, columns])
    result = refiner(part, np.ascontiguousarray(mask[rows, columns]), label, seed=seed, progress=progress)
    probability, paper = mask.astype(np.float32), mask.astype(np.float32)
    probability[rows, columns], paper[rows, columns] = result.probability, result.paper_probability
    return replace(result, mask=probability > 0.5, probability=probability, paper_probability=paper)


def find_crop(mask: Floats) -> tuple[slice, slice]:
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
