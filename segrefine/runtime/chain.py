"""GS, then G4Seg: what a phrase names, found by the one and refined by the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.engine_set import Progress
from segrefine.runtime.files.mask import has_border
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmentation import Segment, Segmentation
from segrefine.runtime.words.narrative import label_of


def refine_segments(
    refine: Refiner,
    image: NDArray[np.uint8],
    result: Segmentation,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Segmentation:
    """Refine every mask of a segmentation with G4Seg, under the label of its phrase.

    Segments that are empty or full stay as they are: they have no border to refine.

    Args:
        refine: the refiner.
        image: uint8 (H, W, 3) RGB, that of the segmentation.
        result: the segmentation.
        seed: of the noise.
        progress: told of every segment.

    Raises:
        ImageError: the image has another shape or type.
        MaskError: it has another size than that of the segmentation.
        PromptError: a label is too long for the refiner's model.
        NumericalError: an engine gave a value that is not finite.
    """
    segments: list[Segment] = []
    for number, segment in enumerate(result.segments):
        if progress:
            progress(segment.phrase, number / len(result.segments))
        coarse = segment.probability
        if has_border(coarse > 0.5):
            refined = refine(image, coarse, label_of(segment.phrase), seed=seed).probability.astype(np.float16)
            segments.append(replace(segment, refined=refined))
        else:
            segments.append(segment)
    return replace(result, segments=tuple(segments))
