"""A pool of composed scenes on disk, so that training reads what it would else compose over and over."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.demo.scenes import DemoScene, compose_scene
from training.demo.sources import load_sources

SHARD = 4096
MAX_OBJECTS = 4


@dataclass(frozen=True, kw_only=True)
class ScenePool:
    """Scenes of one split.

    Attributes:
        images: uint8 (n, side, side, 3) RGB.
        instances: uint8 (n, side, side), object numbers as in `DemoScene`.
        classes: int16 (n, 4) class index of each object, -1 where there is none.
    """

    images: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    classes: NDArray[np.int16]

    @classmethod
    def of(cls, scenes: Sequence[DemoScene]) -> ScenePool:
        """A pool of the given scenes, all of one size."""
        classes = np.full((len(scenes), MAX_OBJECTS), -1, np.int16)
        for row, scene in zip(classes, scenes, strict=True):
            row[: len(scene.classes)] = scene.classes
        return cls(
            images=np.stack([s.image for s in scenes]),
            instances=np.stack([s.instances for s in scenes]),
            classes=classes,
        )

    def scene(self, index: int) -> DemoScene:
        """One of the scenes."""
        classes = tuple(int(c) for c in self.classes[index] if c >= 0)
        return DemoScene(image=self.images[index], instances=self.instances[index], classes=classes)

    def __len__(self) -> int:
        """Count the scenes."""
        return len(self.images)


def compose_pool(
    folder: Path, cache: Path, count: int, *, held_out: bool, twins: float = 0.0, workers: int = 2
) -> ScenePool:
    """A pool of at least `count` scenes in `folder`; shards that are there already are kept, so a killed run resumes.

    Args:
        folder: where the shards lie, one file per 4096 scenes.
        cache: where `load_sources` keeps its downloads.
        count: number of scenes.
        held_out: compose from held-out sprites and backgrounds.
        twins: as in `compose_scene`.
        workers: processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    load_sources(cache, held_out=held_out)  # downloads once, before the workers ask
    missing = [i for i in range(-(-count // SHARD)) if not (folder / f"{i:04d}.npz").exists()]
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(_compose_shard, folder, cache, index, held_out, twins) for index in missing]
        for job in tqdm(jobs, desc="composing scenes", unit_scale=SHARD, disable=not jobs):
            job.result()
    shards = [np.load(folder / f"{i:04d}.npz") for i in range(-(-count // SHARD))]
    return ScenePool(**{name: np.concatenate([shard[name] for shard in shards])[:count] for name in shards[0]})


def _compose_shard(folder: Path, cache: Path, index: int, held_out: bool, twins: float) -> None:
    cv2.setNumThreads(1)
    rng = np.random.default_rng([index, int(held_out)])
    sources = load_sources(cache, held_out=held_out)
    scenes = [compose_scene(rng, sources, twins=twins) for _ in range(SHARD)]
    partial = folder / f"{index:04d}.partial.npz"
    np.savez(partial, **vars(ScenePool.of(scenes)))
    partial.rename(folder / f"{index:04d}.npz")
