"""Training scenes: a crop of a photograph, cut-outs of others pasted into it, light and colours changed."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.photos.pool import Image, PhotoPool
from training.photos.words import NAMES, SEVEN

NAMED, ASKED = 0.02, 0.03
"""An object that covers less of the scene than this is not named, or not asked for."""
_SEVEN = len(SEVEN)


@dataclass(frozen=True)
class LabelledScene:
    """One training image.

    Attributes:
        image: uint8 (side, side, 3) RGB.
        labels: uint8 (side, side); class numbers, 0 background, `VOID` unknown.
        absent: numbers of the seven classes that are nowhere in the photographs it is made of.
    """

    image: Image
    labels: Image
    absent: tuple[int, ...]

    def shares(self) -> NDArray[np.float64]:
        """The share of the scene that each class number covers, (256,)."""
        counts: NDArray[np.float64] = np.bincount(self.labels.ravel(), minlength=256) / self.labels.size
        return counts


class SceneComposer:
    """Composes scenes from a pool.

    Args:
        pool: photographs and cut-outs.
        side: of a scene, in pixels.
    """

    def __init__(self, pool: PhotoPool, side: int) -> None:
        self._pool, self._side = pool, side
        self._others = [n for n in range(_SEVEN + 1, len(NAMES) + 1) if len(pool.cutters[n])]
        weights = np.array([len(pool.cutters[n]) for n in self._others], np.float64)
        self._weights = weights**0.5 / np.sum(weights**0.5)

    def draw(self, rng: Generator) -> LabelledScene:
        """A scene in which one of the seven classes can be asked for."""
        while True:
            scene = self._compose(rng)
            if scene.shares()[1 : _SEVEN + 1].max() >= ASKED:
                return scene

    def _compose(self, rng: Generator) -> LabelledScene:
        number = _draw_seven(rng)
        photo = self._pool.photos[int(rng.choice(self._pool.holders[number]))]
        present = set(np.unique(photo[..., 3]).tolist())
        whole = rng.random() < 0.6
        image, labels = _crop(rng, photo, number if whole else None, self._side)
        pastes = int(rng.random() < 0.65) if whole else int(rng.integers(1, 3))
        for _ in range(pastes):
            pasted = self._draw_cut(rng)
            cut = self._pool.cuts[int(rng.choice(self._pool.cutters[pasted]))]
            image, labels = _paste(rng, image, labels, cut, pasted)
            present.add(pasted)
        absent = tuple(n for n in range(1, _SEVEN + 1) if n not in present)
        return LabelledScene(_finish(rng, image), labels, absent)

    def _draw_cut(self, rng: Generator) -> int:
        if rng.random() < 0.85:
            return _draw_seven(rng)
        return int(rng.choice(self._others, p=self._weights))


def _draw_seven(rng: Generator) -> int:
    """A class number: the seven alike, but birds, of which there are only sixteen photographs, seldom."""
    chances = np.array([1, 1, 1, 0.9, 0.9, 1, 0.25])
    return int(rng.choice(_SEVEN, p=chances / chances.sum())) + 1


def _crop(rng: Generator, photo: Image, number: int | None, side: int) -> tuple[Image, Image]:
    """A window at random, or one around an object of class `number`, of `side` pixels, mirrored half of the time."""
    height, width = photo.shape[:2]
    short = min(height, width)
    aspect = float(np.exp(rng.uniform(-0.2, 0.2)))
    size = short * float(rng.uniform(0.5, 1.0))
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    if number is not None:
        rows, columns = np.nonzero(photo[..., 3] == number)
        extent = max(np.ptp(np.percentile(rows, (2, 98))), np.ptp(np.percentile(columns, (2, 98))), 12)
        size = float(np.clip(extent * np.exp(rng.uniform(-0.3, 0.8)), 0.3 * short, short))
        at = int(rng.integers(len(rows)))
        share = float(rng.uniform(0.4, 1.0))  # 1: around the middle of the class, 0: around one of its pixels
        x = share * columns.mean() + (1 - share) * columns[at]
        y = share * rows.mean() + (1 - share) * rows[at]
    across, down = min(size * aspect, width), min(size / aspect, height)
    left, top = np.clip(x - across / 2, 0, width - across), np.clip(y - down / 2, 0, height - down)
    window = photo[int(top) : max(int(top + down), int(top) + 8), int(left) : max(int(left + across), int(left) + 8)]
    if rng.random() < 0.5:
        window = window[:, ::-1]
    smaller = cv2.INTER_AREA if min(window.shape[:2]) >= side else cv2.INTER_LINEAR
    image = cv2.resize(np.ascontiguousarray(window[..., :3]), (side, side), interpolation=smaller)
    labels = cv2.resize(np.ascontiguousarray(window[..., 3]), (side, side), interpolation=cv2.INTER_NEAREST)
    return np.asarray(image, np.uint8), np.asarray(labels, np.uint8)


def _paste(rng: Generator, image: Image, labels: Image, cut: Image, number: int) -> tuple[Image, Image]:
    """The scene with a cut-out turned, stretched, relit and laid over it."""
    height, width = cut.shape[:2]
    side = len(image)
    area = rng.uniform(0.08, 0.5) * side * side
    scale = np.sqrt(area / max(1.0, float((cut[..., 3] > 127).sum())))
    scale = min(scale, 1.4 * side / max(height, width))
    angle, aspect = np.deg2rad(12 * rng.normal()), float(np.exp(rng.uniform(-0.15, 0.15)))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = -1 if rng.random() < 0.5 else 1
    linear = turn @ np.diag([mirror * scale * aspect, scale / aspect])
    centre = rng.uniform(0.12, 0.88, 2) * side
    shift = centre - linear @ np.array([width / 2, height / 2])
    colour = _relight(rng, cut[..., :3].astype(np.float32), 0.6)
    cover = cut[..., 3:].astype(np.float32) / 255
    layers = np.concatenate([colour * cover, cover], -1)
    if scale < 0.7:
        layers = cv2.GaussianBlur(layers, (0, 0), 0.3 / scale)
    warped = cv2.warpAffine(layers, np.c_[linear, shift], (side, side), flags=cv2.INTER_LINEAR)
    alpha = warped[..., 3:]
    mixed = image * (1 - alpha) + warped[..., :3]
    pasted = np.where(alpha[..., 0] > 0.5, np.uint8(number), labels)
    return np.clip(mixed, 0, 255).astype(np.uint8), np.asarray(pasted, np.uint8)


def _relight(rng: Generator, image: NDArray[np.float32], much: float) -> NDArray[np.float32]:
    """Brightness, contrast, saturation and the balance of the channels changed; values in 0…255."""
    grey = image.mean(-1, keepdims=True)
    image = grey + (image - grey) * np.float32(np.exp(much * rng.uniform(-0.6, 0.4)))
    image = image * np.exp(much * 0.1 * rng.normal(size=3)).astype(np.float32)
    middle = image.mean()
    image = middle + (image - middle) * np.float32(np.exp(much * rng.uniform(-0.35, 0.35)))
    return np.asarray(image * np.float32(np.exp(much * rng.uniform(-0.4, 0.4))), np.float32)


def _finish(rng: Generator, image: Image) -> Image:
    changed = image.astype(np.float32)
    if rng.random() < 0.8:
        changed = _relight(rng, changed, 1.0)
    if rng.random() < 0.04:
        changed = np.repeat(changed.mean(-1, keepdims=True), 3, -1)
    if rng.random() < 0.15:
        changed = np.asarray(cv2.GaussianBlur(changed, (0, 0), rng.uniform(0.4, 0.8)), np.float32)
    changed = changed + rng.normal(size=changed.shape).astype(np.float32) * np.float32(rng.uniform(0, 4))
    return np.clip(changed, 0, 255).astype(np.uint8)
