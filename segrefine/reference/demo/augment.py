"""Bending and relighting demo scenes while training, so that a class is more than the few sprites there are of it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segrefine.reference.demo.scenes import rotate_hue

_BEND, _SCALE, _LIGHT = 0.025, 0.2, 0.12  # of the side; log of the stretch; relative brightness


def augment_scene(
    rng: Generator, image: NDArray[np.uint8], instances: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The scene bent smoothly, stretched, unevenly lit and with its hues turned; both arrays as `Scene` has them."""
    side = image.shape[0]
    shift = _waves(rng, side, 2) * (_BEND * side)
    middle = (side - 1) / 2
    y, x = np.mgrid[:side, :side].astype(np.float32) - middle
    across, along = np.exp(rng.uniform(-_SCALE, _SCALE, 2))
    columns = rng.choice([-1, 1]) * across * x + middle + shift[..., 0]
    rows = along * y + middle + shift[..., 1]
    bent = _remap(image, columns, rows, cv2.INTER_LINEAR)
    turned = rotate_hue(np.asarray(bent, np.float32) / np.float32(255), rng.uniform(-np.pi, np.pi))
    lit = turned * (1 + _LIGHT * _waves(rng, side, 1))
    relit = np.asarray(np.clip(lit, 0, 1) * 255, np.uint8)
    return relit, np.asarray(_remap(instances, columns, rows, cv2.INTER_NEAREST), np.uint8)


def _remap(
    picture: NDArray[np.uint8], columns: NDArray[np.float32], rows: NDArray[np.float32], interpolation: int
) -> NDArray[np.generic]:
    maps = np.asarray(columns, np.float32), np.asarray(rows, np.float32)
    return np.asarray(cv2.remap(picture, *maps, interpolation, borderMode=cv2.BORDER_REFLECT_101))


def _waves(rng: Generator, side: int, channels: int) -> NDArray[np.float32]:
    """Smooth noise of about unit size, float32 (side, side, channels)."""
    coarse = rng.standard_normal((4, 4, channels)).astype(np.float32)
    waves = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(waves, np.float32).reshape(side, side, channels)
