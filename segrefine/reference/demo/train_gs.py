"""The demo model of label diffusion: denoiser and text encoder, taken up from those of the text-to-image model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from segrefine.reference.checkpoint import LabelCheckpoint
from segrefine.reference.demo.augment import SceneSource
from segrefine.reference.demo.captions import CaptionEncoder
from segrefine.reference.demo.label_gate import LabelCases, label_gate
from segrefine.reference.demo.networks import new_label_denoiser, new_label_scheduler
from segrefine.reference.demo.phrases import Phrase, draw_phrase
from segrefine.reference.demo.scenes import Scene
from segrefine.reference.demo.training import Compiled, TrainingLoop
from segrefine.reference.label_codec import AreaCodec, VaeCodec

BATCH, AUGMENTED, LEARNING_RATE = 32, 16, 5e-4
DROPPED = 0.1
"""Share of samples whose image is left out, and, drawn apart, share whose phrase is."""


@dataclass(kw_only=True)
class LabelTraining:
    """A training run of label denoiser and text encoder on cached latents.

    Attributes:
        source: training scenes.
        tokenizer: the demo model's tokenizer.
        codec: masks ↔ label latents.
        unet: the text-to-image model's denoiser, to set out from.
        text_encoder: its text encoder; trained on, since phrases know more words than captions do.
        cases: held-out cases for the gate.
        state_file: where the state is kept between runs.
        prediction_type: what the denoiser learns to predict, "v_prediction" or "epsilon".
    """

    source: SceneSource
    tokenizer: CLIPTokenizer
    codec: AreaCodec | VaeCodec
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    cases: LabelCases
    state_file: Path
    prediction_type: str = "v_prediction"

    def __post_init__(self) -> None:
        """Builds the denoiser, and takes up a run that was cut off."""
        torch.manual_seed(2)
        denoiser = new_label_denoiser(self.codec.channels, self.unet).train().requires_grad_(True)
        self.text_encoder.train().requires_grad_(True)
        self.loop = TrainingLoop(
            networks={"label_denoiser": denoiser, "text_encoder": self.text_encoder},
            step=self._step,
            gate=self.gate,
            batch=BATCH,
            learning_rate=LEARNING_RATE,
            seed=17,
            state_file=self.state_file,
        )
        self._compiled_denoiser: Compiled = torch.compile(denoiser)
        self._compiled_text: Compiled = torch.compile(self.text_encoder)
        self._encode = CaptionEncoder(self.tokenizer)
        self._scheduler = new_label_scheduler(self.prediction_type)

    def checkpoint(self) -> LabelCheckpoint:
        """The model as it is now, with averaged weights; shares them."""
        return LabelCheckpoint(
            folder=self.state_file.parent,
            vae=self.cases.vae,
            tokenizer=self.tokenizer,
            scheduler_config=dict(self._scheduler.config),
            model_index={},
            codec=self.codec,
            **self.loop.averages,
        )

    def gate(self) -> str:
        """A line with how well the averaged weights find what a phrase names."""
        return str(label_gate(self.checkpoint(), self.cases))

    def _step(self, rng: np.random.Generator) -> Tensor:
        """The loss of BATCH samples: the squared error of the mask that the output implies.

        That weights noise levels by how wrong the mask may be, most where the image alone has to tell.
        """
        drawn = self.source.draw(rng, BATCH, augmented=AUGMENTED)
        phrases = [draw_phrase(rng, scene) for scene in drawn.scenes]
        clean = self.codec.encode(_masks(phrases, drawn.scenes))
        image = drawn.latents * torch.from_numpy(rng.random((BATCH, 1, 1, 1)) >= DROPPED)
        named = rng.random(BATCH) >= DROPPED
        ids = self._encode([phrase.text if keep else "" for phrase, keep in zip(phrases, named, strict=True)])
        timestep = torch.from_numpy(_draw_timesteps(rng, BATCH))
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        alpha = self._scheduler.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            states = self._compiled_text(ids, return_dict=False)[0]
            inputs = torch.cat([noisy, image.float()], 1)
            output = self._compiled_denoiser(inputs, timestep, states, return_dict=False)[0].float()
        if self.prediction_type == "epsilon":
            error, weight = output - noise, ((1 - alpha) / alpha).clamp(max=5)
        else:
            error, weight = output - (alpha.sqrt() * noise - (1 - alpha).sqrt() * clean), 1 - alpha
        loss: Tensor = (weight * error.square()).mean() / clean.square().mean()
        return loss


def _masks(phrases: Sequence[Phrase], scenes: Sequence[Scene]) -> Tensor:
    """What the phrases name, float32 (B, 1, H, W)."""
    masks = [phrase.mask(scene.instances) for phrase, scene in zip(phrases, scenes, strict=True)]
    return torch.from_numpy(np.array(masks, np.float32))[:, None]


def _draw_timesteps(rng: np.random.Generator, count: int) -> np.ndarray:
    """Three in ten of the noisiest tenth, where sampling sets out, the others uniform; int64 (count,)."""
    noisiest = rng.integers(900, 1000, count)
    return np.where(rng.random(count) < 0.3, noisiest, rng.integers(0, 1000, count))
