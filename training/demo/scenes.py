"""Composing demo scenes: one to four sprites over a background, with the exact mask of every object."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.demo.sources import Sources

Floats = NDArray[np.float32]
_REFERENCE_SIDE = 64.0  # lengths below are in pixels of a 64-pixel scene
_OBJECT_SIZE = {1: (22.0, 52.0), 2: (20.0, 38.0), 3: (17.0, 30.0), 4: (16.0, 26.0)}
_OBJECT_COUNT, _TWIN_COUNT = (0.42, 0.40, 0.13, 0.05), (0.25, 0.42, 0.22, 0.11)


@dataclass(frozen=True, kw_only=True)
class DemoScene:
    """One composed scene.

    Attributes:
        image: uint8 (side, side, 3) RGB.
        instances: uint8 (side, side); 0 background, k the visible pixels of object k (1-based, in paint order).
        classes: class index of object 1, 2, …
    """

    image: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    classes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Placement:
    x: float
    y: float
    size: float
    margin: float  # distance to the nearest border over the object's size


def compose_scene(
    rng: Generator, sources: Sources, *, side: int = 64, count: int | None = None, twins: float = 0.0
) -> DemoScene:
    """A scene of `count` objects (drawn when None), which may touch and overlap.

    Hues of objects and background are drawn independently, so that colour alone does not tell what is what.

    Args:
        rng: source of all randomness.
        sources: sprites and backgrounds of one split.
        side: height and width of the scene in pixels.
        count: number of objects, 1 to 4.
        twins: chance that an object is of the first one's class, in scenes with more objects; 0 for different classes.
    """
    count = count or int(rng.choice(4, p=_TWIN_COUNT if twins else _OBJECT_COUNT)) + 1
    background = _add_distractors(rng, _background(rng, sources, side), sources, side)
    classes = tuple(int(c) for c in rng.choice(len(sources.sprites), count, replace=False))
    if twins:
        classes = tuple(classes[0] if rng.random() < twins else c for c in classes)
    near = rng.random() < 0.55
    for _ in range(12):
        image, instances, area, margin = _paint_objects(rng, background, sources, classes, near)
        visible = np.bincount(instances.ravel(), minlength=count + 1)[1:]
        if (visible > 0.7 * area).all() and visible.min() > 60 * (side / _REFERENCE_SIDE) ** 2 and margin > 0.4:
            break
    return DemoScene(image=_finish(rng, image), instances=instances, classes=classes)


def rotate_hue(rgb: Floats, angle: float) -> Floats:
    """`rgb` (…, 3) turned about the grey axis by `angle` radians; lightness is kept, values are not clipped."""
    axis = np.full(3, 1 / np.sqrt(3))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    matrix = np.eye(3) * np.cos(angle) + np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)
    return np.asarray(rgb @ matrix.T, np.float32)


def _background(rng: Generator, sources: Sources, side: int) -> Floats:
    if rng.random() < 0.3:
        image = _texture(rng, side)
    else:
        photo = sources.backgrounds[rng.integers(len(sources.backgrounds))]
        height, width = photo.shape[:2]
        crop = int(rng.integers(64, min(height, width) + 1))
        y, x = rng.integers(height - crop + 1), rng.integers(width - crop + 1)
        patch = cv2.resize(photo[y : y + crop, x : x + crop], (side, side), interpolation=cv2.INTER_AREA)
        image = np.asarray(patch / np.float32(255), np.float32)
        if rng.random() < 0.5:
            image = image[:, ::-1]
    turned = rotate_hue(image, rng.uniform(-np.pi, np.pi))
    relit = (turned - turned.mean()) * rng.uniform(0.6, 1.3) + rng.uniform(0.2, 0.8)
    return np.ascontiguousarray(np.clip(relit, 0, 1), dtype=np.float32)


def _texture(rng: Generator, side: int) -> Floats:
    """A procedural background: clouds, stripes, checks, a gradient or blurred dots; float32 (side, side, 3)."""
    kind, colours = rng.integers(5), rng.random((4, 3)).astype(np.float32)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    angle = rng.random() * 2 * np.pi
    along = x * np.cos(angle) + y * np.sin(angle)
    if kind == 0:
        blend = np.zeros((side, side), np.float32)
        for octave in (2, 4, 8, 16):
            noise = rng.random((octave + 1, octave + 1)).astype(np.float32)
            blend += (
                np.asarray(cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC), np.float32) / octave**0.6
            )
        blend = (blend - blend.min()) / np.ptp(blend)
    elif kind == 1:
        blend = 0.5 + 0.5 * np.sin(along * rng.uniform(10, 40) + 6 * rng.random())
    elif kind == 2:
        squares = rng.uniform(3, 9)
        blend = (np.floor(x * squares + rng.random()) + np.floor(y * squares + rng.random())) % 2
    elif kind == 3:
        blend = np.clip(0.5 + along - 0.5 * (np.cos(angle) + np.sin(angle)), 0, 1)
    else:
        image = np.broadcast_to(colours[0], (side, side, 3)).copy()
        for _ in range(rng.integers(6, 20)):
            centre = (int(rng.integers(side)), int(rng.integers(side)))
            cv2.circle(image, centre, int(side * rng.uniform(0.05, 0.2)), rng.random(3).tolist(), -1)
        return np.asarray(cv2.GaussianBlur(image, (0, 0), side / _REFERENCE_SIDE * rng.uniform(0.5, 2)), np.float32)
    return np.asarray(colours[0] * (1 - blend[..., None]) + colours[1] * blend[..., None], np.float32)


def _add_distractors(rng: Generator, image: Floats, sources: Sources, side: int) -> Floats:
    """Pastes recoloured fragments of other sprites, in four scenes of ten."""
    if rng.random() >= 0.4:
        return image
    for _ in range(rng.integers(1, 5)):
        sprite = sources.distractors[rng.integers(len(sources.distractors))]
        height, width = sprite.shape[:2]
        cut = int(rng.integers(14, 34))
        y = rng.integers(height // 4, max(height // 4 + 1, height * 3 // 4 - cut))
        x = rng.integers(width // 4, max(width // 4 + 1, width * 3 // 4 - cut))
        scale = 0.75 * side / _REFERENCE_SIDE
        patch = cv2.resize(sprite[y : y + cut, x : x + cut], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        height, width = patch.shape[:2]
        alpha = patch[..., 3]
        if rng.random() < 0.5:
            disc = np.zeros_like(alpha)
            cv2.ellipse(disc, (width // 2, height // 2), (width // 2, height // 2), 0, 0, 360, 1.0, -1)
            alpha = alpha * disc
        y, x = int(rng.integers(0, side - height)), int(rng.integers(0, side - width))
        recoloured = rotate_hue(np.asarray(patch[..., :3]), rng.uniform(-np.pi, np.pi)) * rng.uniform(0.7, 1.2)
        region = image[y : y + height, x : x + width]
        region[...] += alpha[..., None] * (np.clip(recoloured, 0, 1) - region)
    return image


def _paint_objects(
    rng: Generator, background: Floats, sources: Sources, classes: tuple[int, ...], near: bool
) -> tuple[Floats, NDArray[np.uint8], NDArray[np.int64], float]:
    """Image, instance map, full area of each object, and the smallest margin to the border (in object sizes)."""
    side = background.shape[0]
    image, instances = background.copy(), np.zeros((side, side), np.uint8)
    areas, margins, previous = [], [], None
    for index, kind in enumerate(classes):
        place = _place(rng, side, len(classes), previous if near else None)
        variants = sources.sprites[kind]
        sprite = _recolour(rng, variants[rng.integers(len(variants))], background, place)
        layer = _warp(rng, sprite, side, place)
        alpha = layer[..., 3:]
        if rng.random() < 0.4:
            image = image * (1 - 0.4 * _shadow(rng, alpha[..., 0]))
        image = image * (1 - alpha) + layer[..., :3]
        mask = alpha[..., 0] > 0.5
        instances[mask] = index + 1
        areas.append(int(mask.sum()))
        margins.append(place.margin)
        previous = place
    return image, instances, np.array(areas), min(margins)


def _place(rng: Generator, side: int, count: int, beside: _Placement | None) -> _Placement:
    size = side / _REFERENCE_SIDE * rng.uniform(*_OBJECT_SIZE[count])
    if beside is None:
        x, y = rng.uniform(0.45 * size, side - 0.45 * size, 2)
    else:
        angle, distance = rng.random() * 2 * np.pi, (beside.size + size) * rng.uniform(0.3, 0.46)
        x, y = beside.x + distance * np.cos(angle), beside.y + distance * np.sin(angle)
    return _Placement(x=x, y=y, size=size, margin=min(x, y, side - x, side - y) / size)


def _recolour(rng: Generator, sprite: Floats, background: Floats, place: _Placement) -> Floats:
    """The sprite with its hue, saturation, contrast and brightness drawn anew, sometimes near the colour behind it."""
    rgb, alpha = sprite[..., :3], sprite[..., 3:]
    rgb = rotate_hue(rgb, rng.uniform(-np.pi, np.pi) if rng.random() < 0.5 else 0.3 * rng.normal())
    grey = rgb.mean(-1, keepdims=True)
    rgb = grey + (rgb - grey) * rng.uniform(0.5, 1.2)
    rgb = (rgb - 0.5) * rng.uniform(0.75, 1.15) + 0.5 + rng.uniform(-0.15, 0.15)
    if rng.random() < 0.4:
        side, reach = background.shape[0], max(1, background.shape[0] * 3 // 16)
        x, y = int(np.clip(place.x, 4, side - 5)), int(np.clip(place.y, 4, side - 5))
        behind = background[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach].mean((0, 1))
        rgb = rgb + (behind - (rgb * alpha).sum((0, 1)) / alpha.sum()) * rng.uniform(0.4, 0.85)
    return np.concatenate([np.clip(rgb, 0, 1) * alpha, alpha], -1, dtype=np.float32)


def _warp(rng: Generator, sprite: Floats, side: int, place: _Placement) -> Floats:
    """The premultiplied sprite flipped, turned, stretched and put in its place; float32 (side, side, 4)."""
    if rng.random() < 0.5:
        sprite = np.ascontiguousarray(sprite[:, ::-1])
    height, width = sprite.shape[:2]
    scale, aspect, angle = place.size / max(height, width), rng.uniform(0.88, 1.14), np.deg2rad(15 * rng.normal())
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([scale * aspect, scale / aspect])
    shift = np.array([place.x, place.y]) - linear @ np.array([width / 2, height / 2])
    if scale < 0.6:
        sprite = cv2.GaussianBlur(sprite, (0, 0), 0.35 / scale).astype(np.float32)
    return np.asarray(cv2.warpAffine(sprite, np.c_[linear, shift], (side, side), flags=cv2.INTER_LINEAR), np.float32)


def _shadow(rng: Generator, alpha: Floats) -> Floats:
    unit = alpha.shape[0] / _REFERENCE_SIDE
    offset = (round(unit * rng.integers(1, 3)), round(unit * rng.integers(-2, 3)))
    return np.asarray(cv2.GaussianBlur(np.roll(alpha, offset, (0, 1)), (0, 0), 1.3 * unit), np.float32)[..., None]


def _finish(rng: Generator, image: Floats) -> NDArray[np.uint8]:
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), image.shape[0] / _REFERENCE_SIDE * rng.uniform(0.3, 0.6)).astype(
            np.float32
        )
    image = image + rng.normal(size=image.shape).astype(np.float32) * rng.uniform(0, 0.02)
    return np.asarray(np.clip(image, 0, 1) * 255, np.uint8)
