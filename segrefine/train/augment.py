"""Changes of training scenes: crops, flips, colour, pasted objects and joined images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segrefine.train.options import Augmentation
from segrefine.train.scenes import Mask, Region, TrainingScene, crop_scene, resize_mask, resize_scene, union
from segrefine.train.templates import mirror_phrase

Floats = NDArray[np.float32]
Draw = Callable[[Generator], TrainingScene]
"""Gives any scene of the data."""

_LEAST_CUT, _MOST_CUT = 0.02, 0.7
"""Shares of an image that an object covers which can be cut out."""


@dataclass(frozen=True, kw_only=True)
class Strength:
    """Strength of the changes to an image.

    Attributes:
        smallest: smallest side of a crop, as a share of the image's.
        stretch: logarithm of the largest change of the aspect.
        light: largest change of contrast and brightness, as a share.
        turn: largest rotation in degrees.
        spoil: chance of blur, of noise, and of a covered box.
    """

    smallest: float
    stretch: float
    light: float
    turn: float
    spoil: float


STRENGTHS: dict[Augmentation, Strength | None] = {
    "none": None,
    "light": Strength(smallest=0.75, stretch=0.1, light=0.15, turn=0, spoil=0),
    "strong": Strength(smallest=0.45, stretch=0.3, light=0.4, turn=15, spoil=0.15),
}


@dataclass(frozen=True, kw_only=True)
class Augmenter:
    """Makes a training scene of a given size from scenes of the data.

    Attributes:
        strength: how far images are changed; None only scales them.
        paste: share of scenes that get an object of another scene.
        mosaic: share of scenes that are joined from two.
        draw: gives another scene.
    """

    strength: Strength | None
    paste: float
    mosaic: float
    draw: Draw

    def __call__(self, rng: Generator, scene: TrainingScene, height: int, width: int) -> TrainingScene:
        """A changed scene of `height` × `width` pixels. Where phrases of the data name a region it stays whole."""
        if self.strength is None:
            return resize_scene(scene, height, width)
        chance = rng.random()
        if scene.has_phrases:
            made = self._change(rng, scene, height, width)
        elif chance < self.mosaic:
            made = self._join(rng, scene, height, width)
        else:
            made = self._change(rng, scene, height, width)
            if chance < self.mosaic + self.paste:
                for _ in range(1 if rng.random() < 0.75 else 2):
                    made = paste_object(rng, made, self.draw(rng), self.strength)
        return replace(made, image=_spoil(rng, made.image, self.strength.spoil))

    def _change(self, rng: Generator, scene: TrainingScene, height: int, width: int) -> TrainingScene:
        """Crop, rotate, flip, scale and recolour one scene."""
        assert self.strength is not None
        if not scene.has_phrases:
            scene = random_crop(rng, scene, self.strength, width / height)
            scene = rotate_scene(scene, rng.uniform(-1, 1) * self.strength.turn if rng.random() < 0.3 else 0)
        if rng.random() < 0.5:
            scene = mirror_scene(scene)
        scene = resize_scene(scene, height, width)
        return replace(scene, image=recolour(rng, scene.image, self.strength.light))

    def _join(self, rng: Generator, scene: TrainingScene, height: int, width: int) -> TrainingScene:
        """Two scenes next to each other, or one above the other."""
        other = self.draw(rng)
        if other.has_phrases:
            return self._change(rng, scene, height, width)
        across = bool(rng.random() < 0.5)
        cut = int(rng.uniform(0.35, 0.65) * (width if across else height))
        sizes = [(height, cut), (height, width - cut)] if across else [(cut, width), (height - cut, width)]
        parts = [self._change(rng, each, *size) for each, size in zip((scene, other), sizes, strict=True)]
        axis = 1 if across else 0
        regions = []
        for number, part in enumerate(parts):
            for region in part.regions:
                blanks = [np.zeros(size, np.bool_) for size in sizes]
                blanks[number] = region.mask
                regions.append(replace(region, mask=np.concatenate(blanks, axis)))
        return TrainingScene(
            image=np.concatenate([part.image for part in parts], axis),
            regions=tuple(regions),
            ignored=np.concatenate([part.ignored for part in parts], axis),
            known=parts[0].known & parts[1].known,
        )


def mirror_scene(scene: TrainingScene) -> TrainingScene:
    """The scene flipped from left to right, with left and right swapped in its phrases."""
    regions = tuple(
        replace(r, mask=r.mask[:, ::-1], phrases=tuple(mirror_phrase(text) for text in r.phrases))
        for r in scene.regions
    )
    return replace(scene, image=scene.image[:, ::-1], regions=regions, ignored=scene.ignored[:, ::-1])


def random_crop(rng: Generator, scene: TrainingScene, strength: Strength, aspect: float) -> TrainingScene:
    """A random part of the scene that still shows some of a region, about `aspect` wide for its height."""
    height, width = scene.size
    wanted = union((region.mask for region in scene.regions), scene.size)
    for _ in range(6):
        side = rng.uniform(strength.smallest, 1) if rng.random() < 0.75 else 1.0
        ratio = aspect * np.exp(rng.uniform(-1, 1) * strength.stretch)
        w = min(width, side * min(width, height * ratio) * 1.15)
        h = min(height, w / ratio)
        rows, columns = max(8, round(h)), max(8, round(w))
        rows, columns = min(rows, height), min(columns, width)
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        if not wanted.any() or wanted[top : top + rows, left : left + columns].mean() > 0.03:
            return crop_scene(scene, top, left, rows, columns)
    return scene


def rotate_scene(scene: TrainingScene, angle: float) -> TrainingScene:
    """The scene turned by `angle` degrees; what comes in at the borders is ignored."""
    if not angle:
        return scene
    height, width = scene.size
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.1)

    def turn(values: NDArray[np.uint8], flags: int, border: int, fill: int = 0) -> NDArray[np.uint8]:
        turned = cv2.warpAffine(
            np.ascontiguousarray(values), matrix, (width, height), flags=flags, borderMode=border, borderValue=fill
        )
        return np.asarray(turned, np.uint8)

    def turn_mask(mask: Mask, fill: int) -> Mask:
        return turn(mask.view(np.uint8), cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, fill).astype(np.bool_)

    regions = tuple(replace(region, mask=turn_mask(np.ascontiguousarray(region.mask), 0)) for region in scene.regions)
    image = turn(scene.image, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)
    return replace(scene, image=image, regions=regions, ignored=turn_mask(np.ascontiguousarray(scene.ignored), 1))


def recolour(rng: Generator, image: NDArray[np.uint8], amount: float) -> NDArray[np.uint8]:
    """The image with its contrast, brightness, saturation and tint changed."""
    if rng.random() > 0.85:
        return image
    values = image.astype(np.float32) / 255
    mean = values.mean()
    low, high = 1 - amount, 1 + amount
    values = (values - mean) * rng.uniform(low, high) + mean * rng.uniform(low, high)
    grey = values.mean(-1, keepdims=True)
    saturation = 0.0 if rng.random() < 0.06 else rng.uniform(1 - 1.6 * amount, 1 + 1.2 * amount)
    values = grey + (values - grey) * saturation
    values = values * rng.uniform(1 - 0.3 * amount, 1 + 0.3 * amount, 3)
    return np.asarray(np.clip(values, 0, 1) * 255).astype(np.uint8)


def paste_object(rng: Generator, scene: TrainingScene, donor: TrainingScene, strength: Strength) -> TrainingScene:
    """The scene with one object of `donor` on top, so that only the phrase tells which object is meant."""
    found = [r for r in donor.regions if r.label and _LEAST_CUT < r.mask.mean() < _MOST_CUT]
    if not found or donor.has_phrases:
        return scene
    region = found[rng.integers(len(found))]
    part, alpha = _cut_out(rng, donor, region, scene.size)
    (top, left), (rows, columns) = _place(rng, alpha.shape, scene.size), alpha.shape
    height, width = scene.size
    box = np.s_[max(0, top) : min(height, top + rows), max(0, left) : min(width, left + columns)]
    inner = np.s_[max(0, -top) : min(rows, height - top), max(0, -left) : min(columns, width - left)]
    part, alpha = recolour(rng, part, strength.light)[inner], alpha[inner]
    image, pasted = scene.image.copy(), np.zeros(scene.size, np.bool_)
    soft = alpha if rng.random() < 0.5 else np.asarray(cv2.GaussianBlur(alpha, (3, 3), 0), np.float32)
    below = image[box].astype(np.float32)
    image[box] = (below + soft[..., None] * (part - below)).astype(np.uint8)
    pasted[box] = alpha > 0.5
    regions = tuple(replace(each, mask=each.mask & ~pasted) for each in scene.regions)
    regions = tuple(each for each in regions if each.mask.any())
    added = Region(mask=pasted, label=region.label, single=region.single)
    return TrainingScene(
        image=image, regions=(*regions, added), ignored=scene.ignored & ~pasted, known=scene.known & donor.known
    )


def _cut_out(
    rng: Generator, donor: TrainingScene, region: Region, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], Floats]:
    """The pixels (h, w, 3) of a region and their alpha, scaled to fit into an image of `size`."""
    rows, columns = (np.flatnonzero(region.mask.any(axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    part, mask = donor.image[box], region.mask[box]
    if rng.random() < 0.5:
        part, mask = part[:, ::-1], mask[:, ::-1]
    scale = rng.uniform(0.3, 0.85) * max(size) / max(mask.shape)
    height, width = (max(4, min(limit, round(side * scale))) for side, limit in zip(mask.shape, size, strict=True))
    resized = cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.uint8), resize_mask(mask, height, width).astype(np.float32)


def _place(rng: Generator, part: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """Top and left of a pasted part; up to a fifth of it may lie outside."""
    top, left = (
        int(rng.integers(-(inner // 5), outer - inner + inner // 5 + 1))
        for inner, outer in zip(part, size, strict=False)
    )
    return top, left


def _spoil(rng: Generator, image: NDArray[np.uint8], chance: float) -> NDArray[np.uint8]:
    """The image, sometimes blurred, noisy or partly covered."""
    if rng.random() < chance:
        image = np.asarray(cv2.GaussianBlur(image, (3, 3), rng.uniform(0.3, 0.9)), np.uint8)
    if rng.random() < chance:
        noise = rng.normal(0, rng.uniform(1, 10), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < chance:
        height, width = (int(side * rng.uniform(0.1, 0.35)) for side in image.shape[:2])
        top, left = rng.integers(image.shape[0] - height), rng.integers(image.shape[1] - width)
        image = image.copy()
        image[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    return np.ascontiguousarray(image)
