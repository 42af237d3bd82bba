"""Stage two of the demo model: the denoiser and its text encoder, trained together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTokenizer

from training.demo.augment import SceneSource
from training.demo.captions import CaptionEncoder, draw_caption, draw_pair
from training.demo.checkpoints import load_state, save_state
from training.demo.gate import GateCases, text_gate
from training.demo.networks import new_scheduler, new_text_encoder, new_unet, use_plain_attention
from training.demo.pool import ScenePool
from training.demo.scenes import DemoScene
from training.demo.train_vae import to_unit
from training.demo.training import Compiled, TrainingLoop

BATCH, LEARNING_RATE = 32, 1e-3
PAIRS, PAIR_WEIGHT, MARGIN = 8, 0.5, 0.15
"""Samples of a batch that are seen under a wrong caption too, the weight of telling the two apart, and by how much."""
AUGMENTED = 16
"""Samples of a batch that are augmented, and encoded anew."""


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, scenes: ScenePool, file: Path) -> Tensor:
    """Scaled latents of all scenes, float16 (n, c, 16, 16); kept in `file`."""
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
        source: training scenes.
        tokenizer: the demo model's tokenizer.
        cases: held-out cases for the text gate.
        state_file: where the state is kept between runs.
    """

    source: SceneSource
    tokenizer: CLIPTokenizer
    cases: GateCases
    state_file: Path

    def __post_init__(self) -> None:
        """Builds the networks, and takes up a run that was cut off."""
        torch.manual_seed(1)
        ends = {"start": self.tokenizer.bos_token_id, "end": self.tokenizer.eos_token_id}
        self.unet = new_unet().train()
        self.text_encoder = new_text_encoder(len(self.tokenizer), **ends).train()
        self.loop = TrainingLoop(
            networks={"unet": self.unet, "text_encoder": self.text_encoder},
            step=self._step,
            gate=self.gate,
            batch=BATCH,
            learning_rate=LEARNING_RATE,
            seed=13,
            state_file=self.state_file,
        )
        use_plain_attention(self.unet, self.text_encoder)
        self._compiled_unet: Compiled = torch.compile(self.unet)
        self._compiled_text: Compiled = torch.compile(self.text_encoder)
        self._encode = CaptionEncoder(self.tokenizer)
        self._alphas = new_scheduler().alphas_cumprod

    def gate(self) -> str:
        """A line with the text gate of the averaged weights."""
        averages = self.loop.averages
        with torch.autocast("cpu", torch.bfloat16):
            passed, ratio = text_gate(
                averages["unet"], averages["text_encoder"], self._encode, self._alphas, self.cases
            )
        return f"right beats wrong {passed:.3f}, error wrong/right {ratio:.4f}"

    def _step(self, rng: np.random.Generator) -> Tensor:
        """The loss of BATCH samples; the last PAIRS repeat the first with captions that are wrong."""
        drawn = self.source.draw(rng, BATCH - PAIRS, augmented=AUGMENTED)
        captions, wrong, regions = _draw_pairs(rng, drawn.scenes[:PAIRS])
        captions += [draw_caption(rng, scene.classes) for scene in drawn.scenes[PAIRS:]]
        ids = self._encode(captions + wrong)
        covered = F.avg_pool2d(torch.from_numpy(drawn.instances > 0)[:, None].float(), 4)
        timestep = torch.from_numpy(_draw_timesteps(rng, BATCH - PAIRS))
        noise = torch.from_numpy(rng.standard_normal(drawn.latents.shape, np.float32))
        alpha = self._alphas[timestep].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * drawn.latents + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * drawn.latents
        noisy, timestep, target = (torch.cat([each, each[:PAIRS]]) for each in (noisy, timestep, target))
        with torch.autocast("cpu", torch.bfloat16):
            states = self._compiled_text(ids, return_dict=False)[0]
            output = self._compiled_unet(noisy, timestep, states, return_dict=False)[0]
        errors = (output.float() - target).square()
        # min-SNR weighting (arXiv 2303.09556) for v-prediction, floored; captions name objects: these count threefold
        snr = alpha / (1 - alpha)
        weight = (snr.clamp(max=5) / (snr + 1)).clamp(min=0.4) * (1 + 2 * covered)
        loss = (errors[:-PAIRS] * weight).mean() / 0.6
        total: Tensor = loss + PAIR_WEIGHT * _margin_loss(errors[:PAIRS], errors[-PAIRS:], regions)
        return total


def _draw_pairs(rng: np.random.Generator, scenes: Sequence[DemoScene]) -> tuple[list[str], list[str], Tensor]:
    """Draw one object of each scene: its caption, a wrong one, and its region, float32 (n, 16, 16)."""
    right, wrong, regions = [], [], []
    for scene in scenes:
        target, named, misnamed = draw_pair(rng, scene.classes)
        right.append(named)
        wrong.append(misnamed)
        regions.append(torch.from_numpy(scene.instances == target + 1).float())
    return right, wrong, F.avg_pool2d(torch.stack(regions)[:, None], 4)[:, 0]


def _margin_loss(right: Tensor, wrong: Tensor, regions: Tensor) -> Tensor:
    """Return how far the wrong caption's error in the object's region falls short of MARGIN above the right one's.

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
