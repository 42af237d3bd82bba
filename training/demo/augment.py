"""Bending and relighting demo scenes while training, so that a class is more than the few sprites there are of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from training.demo.pool import ScenePool
from training.demo.scenes import DemoScene, rotate_hue
from training.demo.train_vae import to_unit

_BEND, _SCALE, _LIGHT = 0.025, 0.2, 0.12  # of the side; log of the stretch; relative brightness


def augment_scene(
    rng: Generator, image: NDArray[np.uint8], instances: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Bend, stretch and relight a scene, and turn its hues; both arrays are as `DemoScene` has them."""
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


@dataclass(frozen=True, kw_only=True)
class SceneBatch:
    """Scenes of one training step, some of them augmented.

    Attributes:
        scenes: the scenes.
        latents: float32 (n, c, h, w) of their images, scaled.
    """

    scenes: list[DemoScene]
    latents: Tensor

    @property
    def instances(self) -> NDArray[np.uint8]:
        """The scenes' instance maps, uint8 (n, H, W)."""
        return np.stack([scene.instances for scene in self.scenes])


@dataclass(frozen=True, kw_only=True)
class SceneSource:
    """Source of training scenes.

    Attributes:
        pool: the scenes.
        latents: of their images, scaled, float16 (n, c, h, w).
        vae: the codec that made them, for images that are augmented.
    """

    pool: ScenePool
    latents: Tensor
    vae: AutoencoderKL

    @torch.no_grad()
    def draw(self, rng: Generator, count: int, *, augmented: int) -> SceneBatch:
        """`count` scenes, of which `augmented` are augmented and encoded anew."""
        rows = rng.integers(len(self.pool), size=count)
        scenes, latents = [self.pool.scene(row) for row in rows], self.latents[rows].float()
        chosen = rng.permutation(count)[:augmented]
        for index in chosen:
            image, instances = augment_scene(rng, scenes[index].image, scenes[index].instances)
            scenes[index] = replace(scenes[index], image=image, instances=instances)
        mean = self.vae.encode(to_unit(np.stack([scenes[index].image for index in chosen]))).latent_dist.mean
        latents[chosen] = mean * self.vae.config.scaling_factor
        return SceneBatch(scenes=scenes, latents=latents)


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
