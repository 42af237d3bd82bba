"""Images with labelled masks, on which ranges are measured and the result is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segrefine.datasets.opening import read_pairs
from segrefine.errors import ExportError

LEAST_IMAGES = 4
MOST_SCENES = 32
"""Masks that are used, at most: half of them to measure ranges, half to judge."""
_HINT = "give images like those that the model will see, with coarse masks and labels"


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationScene:
    """An image, uint8 (H, W, 3), with one mask, float32 (H, W) in [0, 1], and what it shows."""

    image: NDArray[np.uint8]
    mask: NDArray[np.float32]
    label: str


def read_scenes(source: Path) -> list[CalibrationScene]:
    """Read the scenes of a data set: one mask of each image, evenly from all images.

    Args:
        source: a data set that `segrefine batch` reads.

    Raises:
        ExportError: there are too few images with a mask.
        MaskError: there is no data set, or an image's masks cannot be read.
        ImageError: an image cannot be read.
    """
    found = []
    for image, pairs in read_pairs(source):
        if pairs:
            label, mask = pairs[0]
            found.append(CalibrationScene(image=image, mask=np.asarray(mask, np.float32), label=label))
    if len(found) < LEAST_IMAGES:
        expected = f"{LEAST_IMAGES} images with masks or more"
        raise ExportError(subject=f"{source}, for calibration", expected=expected, got=len(found), hint=_HINT)
    places = np.linspace(0, len(found) - 1, min(len(found), MOST_SCENES)).round().astype(int)
    return [found[place] for place in places]


def split_scenes(scenes: Sequence[CalibrationScene]) -> tuple[list[CalibrationScene], list[CalibrationScene]]:
    """The scenes on which ranges are measured, and those on which the masks are judged: in turn.

    Raises:
        ExportError: there are too few of them, or all are of one image.
    """
    images = {scene.image.tobytes() for scene in scenes}
    if len(images) < LEAST_IMAGES:
        expected = f"scenes of {LEAST_IMAGES} images or more"
        raise ExportError(subject="the calibration", expected=expected, got=f"{len(images)} images", hint=_HINT)
    return list(scenes[::2]), list(scenes[1::2])
