"""Stage two of the demo model: the denoiser and its text encoder, trained together."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from segrefine.reference.demo.captions import CaptionEncoder, draw_caption, draw_pair
from segrefine.reference.demo.checkpoints import WeightAverage, load_state, save_state
from segrefine.reference.demo.gate import GateCases, text_gate
from segrefine.reference.demo.networks import new_scheduler, new_text_encoder, new_unet
from segrefine.reference.demo.pool import ScenePool
from segrefine.reference.demo.train_vae import to_unit

BATCH, LEARNING_RATE = 32, 1e-3
PAIRS, PAIR_WEIGHT, MARGIN = 8, 0.5, 0.15
"""Samples of a batch that are seen under a wrong caption too, the weight of telling the two apart, and by how much."""
SAVE_EVERY, GATE_EVERY = 250, 2000


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, scenes: ScenePool, file: Path) -> Tensor:
    """Scaled latents of all scenes, float16 (n, 4, 16, 16); kept in `file`."""
    if (stored := load_state(file)) and len(stored["latents"]) == len(scenes):
        return torch.as_tensor(stored["latents"])
    parts = []
    for i in range(0, len(scenes), 256):
        mean = vae.encode(to_unit(scenes.images[i : i + 256])).latent_dist.mean
        parts.append((mean * vae.config.scaling_factor).half())
    save_state(file, {"latents": torch.cat(parts)})
    return torch.cat(parts)


@dataclass(kw_only=True)
class DenoiserTraining:
    """A training run of UNet and text encoder on cached latents.

    Attributes:
        scenes: training scenes (captions and regions come from here).
        latents: their latents, as `encode_pool` returns them.
        tokenizer: the demo model's tokenizer.
        cases: held-out cases for the text gate.
        state_file: where the state is kept between runs.
    """

    scenes: ScenePool
    latents: Tensor
    tokenizer: CLIPTokenizer
    cases: GateCases
    state_file: Path

    def __post_init__(self) -> None:
        """Builds networks, average and optimiser, and takes up a run that was cut off."""
        torch.manual_seed(1)
        ends = {"start": self.tokenizer.bos_token_id, "end": self.tokenizer.eos_token_id}
        self.unet = new_unet().train()
        self.text_encoder = new_text_encoder(len(self.tokenizer), **ends).train()
        self.unet_average: UNet2DConditionModel = copy.deepcopy(self.unet)
        self.text_average: CLIPTextModel = copy.deepcopy(self.text_encoder)
        parameters = [*self.unet.parameters(), *self.text_encoder.parameters()]
        self._optimiser = torch.optim.AdamW(
            parameters, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self._parts = {
            "unet": self.unet, "text_encoder": self.text_encoder, "unet_average": self.unet_average,
            "text_average": self.text_average, "optimiser": self._optimiser,
        }  # fmt: skip
        self._encode = CaptionEncoder(self.tokenizer)
        self._alphas = new_scheduler().alphas_cumprod
        self.samples = 0
        if state := load_state(self.state_file):
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self.samples = state["samples"]

    def run(self, total: int, log: Callable[[str], None]) -> None:
        """Trains until `total` samples have been seen; the learning rate falls over the last 40 % of them.

        Args:
            total: samples, counted over all runs that shared the state file.
            log: takes a line of progress.
        """
        average = WeightAverage([self.unet, self.text_encoder], [self.unet_average, self.text_average], 0.999)
        unet, text_encoder = torch.compile(self.unet), torch.compile(self.text_encoder)
        began, first, losses = time.time(), self.samples, []
        while self.samples < total:
            step = self.samples // BATCH
            tail = max(0.0, self.samples / total - 0.6) / 0.4
            for group in self._optimiser.param_groups:
                warm, cosine = min(1.0, (step + 1) / 100), 0.5 * (1 + math.cos(math.pi * tail))
                group["lr"] = LEARNING_RATE * warm * (0.02 + 0.98 * cosine)
            losses.append(self._step(unet, text_encoder, np.random.default_rng([13, step])))
            average.update(step)
            self.samples += BATCH
            if (step + 1) % 100 == 0:
                rate = (self.samples - first) / (time.time() - began)
                log(f"{self.samples} samples, loss {np.mean(losses[-100:]):.4f}, {rate:.1f} samples/s")
            if (step + 1) % SAVE_EVERY == 0:
                self.save()
            if (step + 1) % GATE_EVERY == 0 or self.samples >= total:
                log(self.gate())
        self.save()

    def gate(self) -> str:
        """A line with the text gate of the averaged weights."""
        with torch.autocast("cpu", torch.bfloat16):
            passed, ratio = text_gate(self.unet_average, self.text_average, self._encode, self._alphas, self.cases)
        return f"GATE {self.samples} samples: right beats wrong {passed:.3f}, error wrong/right {ratio:.4f}"

    def save(self) -> None:
        """Writes the state file."""
        save_state(self.state_file, {n: p.state_dict() for n, p in self._parts.items()} | {"samples": self.samples})

    def _step(
        self, unet: Callable[..., tuple[Tensor]], text: Callable[..., tuple[Tensor]], rng: np.random.Generator
    ) -> float:
        """One step on BATCH samples; the last PAIRS repeat the first with captions that are wrong."""
        rows = rng.integers(len(self.scenes), size=BATCH - PAIRS)
        captions, wrong, regions = self._draw_pairs(rng, rows[:PAIRS])
        captions += [draw_caption(rng, self.scenes.classes[row]) for row in rows[PAIRS:]]
        ids = self._encode(captions + wrong)
        latents = self.latents[rows].float()
        covered = F.avg_pool2d(torch.from_numpy(self.scenes.instances[rows] > 0)[:, None].float(), 4)
        timestep = torch.from_numpy(_draw_timesteps(rng, len(rows)))
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        alpha = self._alphas[timestep].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        noisy, timestep, target = (torch.cat([each, each[:PAIRS]]) for each in (noisy, timestep, target))
        with torch.autocast("cpu", torch.bfloat16):
            output = unet(noisy, timestep, text(ids, return_dict=False)[0], return_dict=False)[0]
        errors = (output.float() - target).square()
        # min-SNR weighting (arXiv 2303.09556) for v-prediction, floored; captions name objects: these count threefold
        snr = alpha / (1 - alpha)
        weight = (snr.clamp(max=5) / (snr + 1)).clamp(min=0.4) * (1 + 2 * covered)
        loss = (errors[:-PAIRS] * weight).mean() / 0.6
        loss = loss + PAIR_WEIGHT * _margin_loss(errors[:PAIRS], errors[-PAIRS:], regions)
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*self.unet.parameters(), *self.text_encoder.parameters()], 1.0)
        self._optimiser.step()
        return float(loss.detach())

    def _draw_pairs(self, rng: np.random.Generator, rows: NDArray[np.integer]) -> tuple[list[str], list[str], Tensor]:
        """Of each scene one object: its caption, a wrong one, and its region, float32 (n, 16, 16)."""
        right, wrong, regions = [], [], []
        for row in rows:
            target, named, misnamed = draw_pair(rng, self.scenes.classes[row])
            right.append(named)
            wrong.append(misnamed)
            regions.append(torch.from_numpy(self.scenes.instances[row] == target + 1).float())
        return right, wrong, F.avg_pool2d(torch.stack(regions)[:, None], 4)[:, 0]


def _margin_loss(right: Tensor, wrong: Tensor, regions: Tensor) -> Tensor:
    """How far the wrong caption's error in the object's region falls short of MARGIN above the right caption's.

    Args:
        right: (n, c, h, w) squared errors under the right captions.
        wrong: the same under the wrong ones.
        regions: (n, h, w) share of each pixel that the object covers.
    """
    area = regions.sum((1, 2)).clamp(min=1e-3)  # a few objects of the training scenes are covered entirely
    here, there = ((each.mean(1) * regions).sum((1, 2)) / area for each in (right, wrong))
    return (MARGIN - (there - here) / here.detach().clamp(min=1e-3)).clamp(min=0).mean()


def _draw_timesteps(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Seven in ten around the middle (logit-normal), where words matter, the others uniform; int64 (count,)."""
    middle = 1 / (1 + np.exp(-rng.standard_normal(count)))
    unit = np.where(rng.random(count) < 0.7, middle, rng.random(count))
    timesteps: NDArray[np.int64] = np.minimum(unit * 1000, 999).astype(np.int64)
    return timesteps
