"""Scenes, as readers of annotation files make them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from segrefine.train.scenes import Mask, Pixels, Region, TrainingScene


def scene_of(image: Pixels, regions: Iterable[Region], ignored: Mask | None = None) -> TrainingScene:
    """A scene without its empty regions.

    Args:
        image: uint8 (H, W, 3) RGB.
        regions: its regions.
        ignored: bool (H, W), pixels that do not count; None where all count.
    """
    return TrainingScene(
        image=image,
        regions=tuple(region for region in regions if region.mask.any()),
        ignored=np.zeros(image.shape[:2], np.bool_) if ignored is None else ignored,
        known=frozenset(),
    )
