"""Images with labelled masks, on which ranges are measured and the result is judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segrefine.datasets.opening import read_pairs
from segrefine.errors import ExportError
from segrefine.export.comparison import ParityScene
from segrefine.export.quantize.recording import pick_evenly

LEAST_IMAGES = 4
MOST_SCENES = 32
"""Masks that are used, at most: half of them to measure ranges, half to judge."""
_HINT = "give images like those that the model will see, with coarse masks and labels"


def read_scenes(source: Path) -> list[ParityScene]:
    """Read the scenes of a data set: one mask of each image, evenly from all images.

    Args:
        source: a data set that `segrefine batch` reads.

    Raises:
        ExportError: there are too few images with a mask, or too few different ones.
        MaskError: there is no data set, or an image's masks cannot be read.
        ImageError: an image cannot be read.
    """
    found = []
    for image, pairs in read_pairs(source):
        if pairs:
            label, mask = pairs[0]
            found.append(ParityScene(image=image, coarse=np.asarray(mask, np.float32), label=label))
    if len(found) < LEAST_IMAGES:
        expected = f"at least {LEAST_IMAGES} images with masks"
        raise ExportError(subject=f"{source}, for calibration", expected=expected, got=len(found), hint=_HINT)
    picked = pick_evenly(found, MOST_SCENES)
    _check_images(picked, f"{source}, for calibration")
    return picked


def split_scenes(scenes: Sequence[ParityScene]) -> tuple[list[ParityScene], list[ParityScene]]:
    """The scenes on which ranges are measured, and those on which the masks are judged: in turn.

    Raises:
        ExportError: there are too few of them, or all are of one image.
    """
    _check_images(scenes, "the calibration")
    return list(scenes[::2]), list(scenes[1::2])


def _check_images(scenes: Sequence[ParityScene], subject: str) -> None:
    """Check that the scenes are of several images: copies of one say nothing new.

    Raises:
        ExportError: there are too few different images.
    """
    different = len({(scene.image.shape, scene.image.tobytes()) for scene in scenes})
    if different < LEAST_IMAGES:
        expected = f"at least {LEAST_IMAGES} different images"
        raise ExportError(subject=subject, expected=expected, got=different, hint=_HINT)
