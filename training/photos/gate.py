"""The text gate on photographs that nothing was trained on: does the right word beat a wrong one?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segrefine.reference.image_encoder import FeatureEncoder
from training.demo.captions import CaptionEncoder
from training.demo.train_vae import to_unit
from training.photos.model import to_grid
from training.photos.pool import PhotoPool
from training.photos.words import NAMES, SEVEN, caption

SHARE = 0.03
TIMESTEPS, QUICK = (300, 450, 600, 750), (450, 600)
"""Noise levels of the gate, and those of the gate during training."""


@dataclass(frozen=True)
class PhotoCases:
    """Held-out objects, each with its right and a wrong word.

    Attributes:
        images: uint8 (n, side, side, 3).
        region: float32 (n, h, w); share of each latent cell that the object covers.
        right: class numbers of the objects, from 1.
        wrong: class numbers that are not in the photographs.
    """

    images: NDArray[np.uint8]
    region: Tensor
    right: list[int]
    wrong: list[int]


def photo_cases(pool: PhotoPool, side: int) -> PhotoCases:
    """Every object of the seven classes that covers 3 % of the square of its photograph that holds most of it."""
    rng = np.random.default_rng(11)
    images, regions, right, wrong = [], [], [], []
    for index in range(len(pool.photos)):
        photo = pool.photos[index]
        present = set(np.unique(photo[..., 3]).tolist())
        absent = [n for n in range(1, len(SEVEN) + 1) if n not in present]
        for number in range(1, len(SEVEN) + 1):
            if number not in present:
                continue
            square = _square(photo, number)
            mask = cv2.resize((square[..., 3] == number).astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
            if mask.mean() < SHARE:
                continue
            image = cv2.resize(np.ascontiguousarray(square[..., :3]), (side, side), interpolation=cv2.INTER_AREA)
            images.append(np.asarray(image, np.uint8))
            regions.append(torch.from_numpy(mask))
            right.append(number)
            wrong.append(int(rng.choice(absent)))
    region = to_grid(torch.stack(regions))
    return PhotoCases(np.stack(images), region, right, wrong)


def _square(photo: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    short = min(photo.shape[:2])
    rows, columns = np.nonzero(photo[..., 3] == number)
    top = int(np.clip(rows.mean() - short / 2, 0, photo.shape[0] - short))
    left = int(np.clip(columns.mean() - short / 2, 0, photo.shape[1] - short))
    return photo[top : top + short, left : left + short]


def photo_gate(
    networks: dict[str, torch.nn.Module],
    encoder: FeatureEncoder,
    encode: CaptionEncoder,
    alphas_cumprod: Tensor,
    cases: PhotoCases,
    timesteps: Sequence[int] = TIMESTEPS,
) -> dict[str, float]:
    """Share of cases with less error in the object's region under the right word, over all and for each class.

    "ratio" is the mean of wrong ÷ right error; "error" that under the right word. Arguments as in `gate_errors`.
    """
    errors = gate_errors(networks, encoder, encode, alphas_cumprod, cases, timesteps)
    passed, numbers = (errors[0] < errors[1]).float(), torch.tensor(cases.right)
    figures = {
        "gate": float(passed.mean()),
        "ratio": float((errors[1] / errors[0]).mean()),
        "error": float(errors[0].mean()),
    }
    return figures | {name: float(passed[numbers == n + 1].mean()) for n, name in enumerate(SEVEN)}


@torch.no_grad()
def gate_errors(
    networks: dict[str, torch.nn.Module],
    encoder: FeatureEncoder,
    encode: CaptionEncoder,
    alphas_cumprod: Tensor,
    cases: PhotoCases,
    timesteps: Sequence[int],
    batch: int = 32,
) -> Tensor:
    """Mean squared error in each object's region under the right and under the wrong word, float32 (2, n).

    Args:
        networks: "denoiser" and "text_encoder".
        encoder: the image encoder.
        encode: captions → token ids.
        alphas_cumprod: (1000,) of the noise schedule.
        cases: what to test on.
        timesteps: noise levels; the error is the mean over them.
        batch: cases at a time.
    """
    parts = [cases.images[i : i + 64] for i in range(0, len(cases.images), 64)]
    latents = torch.cat([encoder(to_unit(part)) for part in parts])
    words = [[caption([NAMES[n - 1]]) for n in each] for each in (cases.right, cases.wrong)]
    table = {text: networks["text_encoder"](encode([text])).last_hidden_state[0] for text in {*words[0], *words[1]}}
    states = [torch.stack([table[text] for text in each]) for each in words]
    errors = torch.zeros(2, len(latents))
    generator = torch.Generator().manual_seed(9)
    for timestep in timesteps:
        alpha = alphas_cumprod[timestep]
        noise = torch.randn(latents.shape, generator=generator)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        for which, state in enumerate(states):
            for part in torch.arange(len(noisy)).split(batch):
                output = networks["denoiser"](noisy[part], torch.full((len(part),), timestep), state[part]).sample
                region = cases.region[part]
                error = (output - target[part]).square().mean(1)
                errors[which, part] += (error * region).sum((1, 2)) / region.sum((1, 2)) / len(timesteps)
    return errors
