"""Small data sets with true masks, drawn from a seed: coloured boxes on noise, each class in its own colour."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "wine glass")
_COLOURS = ((220, 60, 60), (60, 220, 60), (60, 60, 230))


def draw_scene(rng: np.random.Generator, height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """An image, uint8 (H, W, 3), and its label map, uint8 (H, W); one class at least."""
    image = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
    labels = np.zeros((height, width), np.uint8)
    first = int(rng.integers(3))
    for number in range(3):
        if number == first or rng.random() < 0.5:
            top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
            rows, columns = rng.integers(height // 4, height // 2), rng.integers(width // 4, width // 2)
            image[top : top + rows, left : left + columns] = _COLOURS[number]
            labels[top : top + rows, left : left + columns] = number + 1
    return image, labels


def write_label_maps(folder: Path, count: int = 8, seed: int = 0) -> Path:
    """A folder of images and label maps with `classes.json`."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (folder / "classes.json").write_text(json.dumps(["background", *CLASSES]))
    rng = np.random.default_rng(seed)
    for number in range(count):
        image, labels = draw_scene(rng)
        Image.fromarray(image).save(folder / f"images/{number}.png")
        Image.fromarray(labels).save(folder / f"masks/{number}.png")
    return folder
