from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from benchmarks.evaluate import CorruptedCase, make_cases

LABELS = ("disc", "plate", "star")
COLOURS = np.array([[60, 90, 60], [220, 40, 40], [40, 60, 220], [230, 200, 30]])  # background, then object 1, 2, 3


def draw_instances(side: int) -> NDArray[np.uint8]:
    """A disc that touches a plate, and a star that touches neither."""
    unit = side / 64
    instances = np.zeros((side, side), np.uint8)
    cv2.rectangle(instances, (round(32 * unit), round(10 * unit)), (round(48 * unit), round(36 * unit)), 2, -1)
    cv2.circle(instances, (round(22 * unit), round(22 * unit)), round(11 * unit), 1, -1)
    angle, radius = np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2, 5, 12)
    star = np.stack([20 + radius * np.sin(angle), 50 + radius * np.cos(angle)], -1) * unit
    cv2.fillPoly(instances, [star.round().astype(np.int32)], 3)
    return instances


def paint(instances: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    noisy = COLOURS[instances] + rng.normal(0, 12, (*instances.shape, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.fixture
def instances() -> NDArray[np.uint8]:
    return draw_instances(64)


@pytest.fixture
def image(instances: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return paint(instances, np.random.default_rng(0))


@pytest.fixture
def cases(image: NDArray[np.uint8], instances: NDArray[np.uint8]) -> list[CorruptedCase]:
    """Three scenes, each with the kinds that apply to the object drawn."""
    return [case for scene in range(3) for case in make_cases(image, instances, LABELS, scene=scene)]
