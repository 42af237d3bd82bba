"""The demo model of label diffusion: denoiser and text encoder, taken up from those of the text-to-image model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from segrefine.reference.checkpoint import LabelCheckpoint
from segrefine.reference.label_codec import AreaCodec, VaeCodec
from training.demo.augment import SceneSource
from training.demo.captions import CaptionEncoder
from training.demo.label_gate import LabelCases, label_gate
from training.demo.networks import new_label_scheduler, use_plain_attention
from training.demo.phrases import Phrase, draw_phrase
from training.demo.scenes import DemoScene
from training.demo.train_classes import ClassProbe, class_loss
from training.demo.training import Compiled, TrainingLoop

BATCH, PHRASES, AUGMENTED, LEARNING_RATE = 32, 2, 8, 5e-4
CLASS_WEIGHT = 0.2
"""Weight of the loss that goes on asking for the classes of all objects; see `ClassTraining`."""
DROPPED = 0.1
"""Share of samples whose image is left out, and, drawn apart, share whose phrase is."""


@dataclass(kw_only=True)
class LabelTraining:
    """A training run of label denoiser and text encoder on cached latents.

    Attributes:
        source: training scenes.
        tokenizer: the demo model's tokenizer.
        codec: masks ↔ label latents.
        probe: the label denoiser, to set out from, with the head that reads classes; trained in place.
        text_encoder: its text encoder; trained on, since phrases know more words than captions do.
        cases: held-out cases for the gate.
        state_file: where the state is kept between runs.
        prediction_type: what the denoiser learns to predict: "sample", "v_prediction" or "epsilon".
    """

    source: SceneSource
    tokenizer: CLIPTokenizer
    codec: AreaCodec | VaeCodec
    probe: ClassProbe
    text_encoder: CLIPTextModel
    cases: LabelCases
    state_file: Path
    prediction_type: str = "sample"

    def __post_init__(self) -> None:
        """Takes up a run that was cut off."""
        self.probe.train().requires_grad_(True)
        self.text_encoder.train().requires_grad_(True)
        self.loop = TrainingLoop(
            networks={
                "label_denoiser": self.probe.denoiser,
                "class_head": self.probe.head,
                "text_encoder": self.text_encoder,
            },
            step=self._step,
            gate=self.gate,
            batch=BATCH,
            learning_rate=LEARNING_RATE,
            seed=17,
            state_file=self.state_file,
        )
        use_plain_attention(self.probe.denoiser, self.text_encoder)
        self._compiled_denoiser: Callable[..., tuple[Tensor, Tensor]] = torch.compile(_WithClasses(self.probe))
        self._compiled_text: Compiled = torch.compile(self.text_encoder)
        self._encode = CaptionEncoder(self.tokenizer)
        self._scheduler = new_label_scheduler(self.prediction_type)

    def checkpoint(self) -> LabelCheckpoint:
        """The model as it is now, with averaged weights; shares them."""
        return LabelCheckpoint(
            model=self.state_file.parent,
            load={**self.loop.averages, "vae": self.cases.vae}.__getitem__,
            configs={"vae": self.cases.vae.config},
            tokenizers={"tokenizer": self.tokenizer},
            scheduler_config=dict(self._scheduler.config),
            model_index={},
            codec=self.codec,
        )

    def gate(self) -> str:
        """A line with how well the averaged weights find what a phrase names."""
        return str(label_gate(self.checkpoint(), self.cases))

    def _step(self, rng: np.random.Generator) -> Tensor:
        """The loss of BATCH samples: the squared error of the mask that the output implies.

        That weights noise levels by how wrong the mask may be, most where the image alone has to tell.
        """
        drawn = self.source.draw(rng, BATCH // PHRASES, augmented=AUGMENTED)
        scenes, latents = drawn.scenes * PHRASES, drawn.latents.repeat(PHRASES, 1, 1, 1)
        phrases = [draw_phrase(rng, scene) for scene in scenes]
        clean = self.codec.encode(_masks(phrases, scenes))
        image = latents * torch.from_numpy(rng.random((BATCH, 1, 1, 1)) >= DROPPED)
        named = rng.random(BATCH) >= DROPPED
        ids = self._encode([phrase.text if keep else "" for phrase, keep in zip(phrases, named, strict=True)])
        timestep = torch.from_numpy(_draw_timesteps(rng, BATCH))
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        alpha = self._scheduler.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            states = self._compiled_text(ids, return_dict=False)[0]
            inputs = torch.cat([noisy, image.float()], 1)
            output, classes = self._compiled_denoiser(inputs, timestep, states)
        output = output.float()
        match self.prediction_type:
            case "sample":
                error, weight = output - clean, torch.ones(1)
            case "v_prediction":
                error, weight = output - (alpha.sqrt() * noise - (1 - alpha).sqrt() * clean), 1 - alpha
            case _:
                error, weight = output - noise, ((1 - alpha) / alpha).clamp(max=5)
        loss: Tensor = (weight * error.square()).mean() / clean.square().mean()
        return loss + CLASS_WEIGHT * class_loss(classes, scenes)


def _masks(phrases: Sequence[Phrase], scenes: Sequence[DemoScene]) -> Tensor:
    """Return the masks of the phrases, float32 (B, 1, H, W)."""
    masks = [phrase.mask(scene.instances) for phrase, scene in zip(phrases, scenes, strict=True)]
    return torch.from_numpy(np.array(masks, np.float32))[:, None]


class _WithClasses(nn.Module):
    """The denoiser of a probe that also reads the classes."""

    def __init__(self, probe: ClassProbe) -> None:
        super().__init__()
        self.probe, self.middle = probe, torch.empty(0)
        probe.denoiser.mid_block.register_forward_hook(self._keep)

    def forward(self, inputs: Tensor, timestep: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        output = self.probe.denoiser(inputs, timestep, states, return_dict=False)[0]
        return output, self.probe.read(self.middle)

    def _keep(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.middle = output


def _draw_timesteps(rng: np.random.Generator, count: int) -> np.ndarray:
    """Most in the noisiest tenth, where image and phrase alone have to tell, the others uniform; int64 (count,)."""
    noisiest = rng.integers(900, 1000, count)
    return np.where(rng.random(count) < 0.7, noisiest, rng.integers(0, 1000, count))
