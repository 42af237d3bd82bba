"""Two masks, a folder of images for them, and the way of a data set: read, then written again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segrefine.datasets.items import Reading, read_image
from segrefine.datasets.notation import select_masks

SIZE = (24, 32)
FOX, CAR = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
FOX[4:12, 3:14], CAR[10:20, 18:30] = True, True


@dataclass(frozen=True)
class Result:
    """What a data set writes of a refinement."""

    mask: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        return np.where(self.mask, 0.9, 0.2).astype(np.float32)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save_npy(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def read(dataset, item) -> Reading:
    return select_masks(dataset.read(item, read_image(item)), item)


def read_all(dataset, item) -> list[tuple[str, Any]]:
    return [(each.label, each.mask) for each in read(dataset, item).masks]


def masks_of(dataset, item) -> dict[str, np.ndarray]:
    return {label: mask > 0.5 for label, mask in read_all(dataset, item)}


def results_of(dataset, item) -> dict[str | int, Result]:
    """The coarse masks of an item, as if refining had changed nothing."""
    return {each.key: Result(each.foreground) for each in read(dataset, item).masks}


def write_again(dataset, output: Path) -> None:
    output.mkdir(exist_ok=True)
    for item in dataset.items:
        assert not dataset.is_done(item, output)
        dataset.write(item, results_of(dataset, item), SIZE, output)
        assert dataset.is_done(item, output)
    dataset.finish(output)
