"""Scenes of training: regions with names, and phrases that name one of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """A part of an image that has a name.

    Attributes:
        mask: bool (H, W).
        label: name of its class; None where only phrases name it.
        phrases: texts that name this region and nothing else in the image.
        single: whether it is one object; False where it may be several of one class.
    """

    mask: Mask
    label: str | None = None
    phrases: tuple[str, ...] = ()
    single: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingScene:
    """An image with its regions.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        regions: its regions; they may overlap.
        ignored: bool (H, W), pixels that belong to no class and do not count.
        known: names of the classes that are annotated wherever they appear; a class in here without a region is absent.
    """

    image: Pixels
    regions: tuple[Region, ...]
    ignored: Mask
    known: frozenset[str]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def has_phrases(self) -> bool:
        """Return whether a region has phrases of its own, which a change of the image could make false."""
        return any(region.phrases for region in self.regions)


def crop_scene(scene: TrainingScene, top: int, left: int, height: int, width: int) -> TrainingScene:
    """The part of a scene in a box, in pixels."""
    box = np.s_[top : top + height, left : left + width]
    regions = tuple(replace(region, mask=region.mask[box]) for region in scene.regions)
    return replace(scene, image=scene.image[box], regions=regions, ignored=scene.ignored[box])


def resize_scene(scene: TrainingScene, height: int, width: int) -> TrainingScene:
    """The scene at another size, in pixels."""
    if scene.size == (height, width):
        return scene
    regions = tuple(replace(r, mask=resize_mask(r.mask, height, width)) for r in scene.regions)
    image = cv2.resize(np.ascontiguousarray(scene.image), (width, height), interpolation=cv2.INTER_AREA)
    ignored = resize_mask(scene.ignored, height, width)
    return replace(scene, image=np.asarray(image, np.uint8), regions=regions, ignored=ignored)


def resize_mask(mask: Mask, height: int, width: int) -> Mask:
    """A mask at another size; each pixel takes the nearest one's value."""
    values = np.ascontiguousarray(mask, np.uint8)
    return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST), np.bool_)


def union(masks: Iterable[Mask], size: tuple[int, int]) -> Mask:
    """The pixels that any of the masks has, bool (H, W)."""
    joined = np.zeros(size, np.bool_)
    for mask in masks:
        joined |= mask
    return joined
