"""Training before label diffusion: the way down through the denoiser learns which classes there are, and where.

Of one phrase's mask a sample tells about one object, after the whole denoiser was computed; the classes of all objects
are learned several times sooner by its first half alone. The text-to-image model that it sets out from knows them only
as answers to a caption: a linear probe of its features finds one class in four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn

from training.demo.augment import SceneSource
from training.demo.captions import NAMES
from training.demo.networks import use_plain_attention
from training.demo.pool import ScenePool
from training.demo.scenes import DemoScene
from training.demo.training import TrainingLoop

Logits = Callable[..., Tensor]
BATCH, AUGMENTED, LEARNING_RATE = 32, 16, 1e-3
CELLS = 2
"""Cells per pixel of the middle block's grid, along one side, whose classes are asked for."""


class ClassProbe(nn.Module):
    """The first half of a label denoiser, and a head that reads classes from its middle block.

    Args:
        denoiser: the label denoiser; shared, not copied.
    """

    def __init__(self, denoiser: UNet2DConditionModel) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.head = nn.Conv2d(denoiser.config.block_out_channels[-1], (1 + len(NAMES)) * CELLS**2, 1)

    def forward(self, inputs: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        """Logits of background and classes, (B, 1 + classes, h, w), of label latents joined with image latents."""
        unet = self.denoiser
        level = unet.time_embedding(unet.time_proj(timestep).to(inputs.dtype))
        hidden = unet.conv_in(inputs)
        for block in unet.down_blocks:
            hidden, _ = block(hidden_states=hidden, temb=level, encoder_hidden_states=states)
        return self.read(unet.mid_block(hidden, level, encoder_hidden_states=states))

    def read(self, middle: Tensor) -> Tensor:
        """The logits of what the middle block gave."""
        return F.pixel_shuffle(self.head(middle), CELLS)


def class_loss(logits: Tensor, scenes: Sequence[DemoScene]) -> Tensor:
    """Cross-entropy of logits (B, 1 + classes, h, w) with the share of each class in each cell."""
    rows, columns = logits.shape[2:]
    numbers = np.stack([_class_map(scene) for scene in scenes])
    one_hot = F.one_hot(torch.from_numpy(numbers), 1 + len(NAMES)).permute(0, 3, 1, 2)
    return F.cross_entropy(logits.float(), F.adaptive_avg_pool2d(one_hot.float(), (rows, columns)))


def _class_map(scene: DemoScene) -> NDArray[np.int64]:
    """The class of each pixel from 1, 0 for the background, int64 (H, W)."""
    return np.array([0, *(index + 1 for index in scene.classes)])[scene.instances]


@dataclass(kw_only=True)
class ClassTraining:
    """A training run of a label denoiser's first half on cached latents.

    Attributes:
        source: training scenes.
        denoiser: the label denoiser; trained in place.
        nothing: states of the empty phrase, (1, tokens, hidden).
        held_out: scenes for the gate.
        held_out_latents: of their images, (n, c, h, w), scaled.
        state_file: where the state is kept between runs.
    """

    source: SceneSource
    denoiser: UNet2DConditionModel
    nothing: Tensor
    held_out: ScenePool
    held_out_latents: Tensor
    state_file: Path

    def __post_init__(self) -> None:
        """Builds the head, and takes up a run that was cut off."""
        torch.manual_seed(3)
        self.probe = ClassProbe(self.denoiser.train().requires_grad_(True))
        self.loop = TrainingLoop(
            networks={"probe": self.probe},
            step=self._step,
            gate=self.gate,
            batch=BATCH,
            learning_rate=LEARNING_RATE,
            seed=23,
            state_file=self.state_file,
        )
        use_plain_attention(self.denoiser)
        self._compiled: Logits = torch.compile(self.probe)

    @torch.no_grad()
    def gate(self) -> str:
        """A line with how many cells of held-out objects are given their class."""
        probe, right, total = self.loop.averages["probe"], 0, 0
        generator = torch.Generator().manual_seed(0)
        for rows in torch.arange(len(self.held_out)).split(64):
            logits = self._logits(probe, self.held_out_latents[rows].float(), torch.full((len(rows),), 999), generator)
            for each, row in zip(logits, rows.tolist(), strict=True):
                numbers = _class_map(self.held_out.scene(row))
                step = numbers.shape[0] // each.shape[1]
                truth = torch.from_numpy(numbers[step // 2 :: step, step // 2 :: step].copy())
                right += int((each[1:].argmax(0) + 1 == truth)[truth > 0].sum())
                total += int((truth > 0).sum())
        return f"class of {right / total:.3f} of the objects' cells"

    def _step(self, rng: np.random.Generator) -> Tensor:
        drawn = self.source.draw(rng, BATCH, augmented=AUGMENTED)
        timestep = torch.from_numpy(rng.integers(900, 1000, BATCH))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return class_loss(self._logits(self._compiled, drawn.latents, timestep, generator), drawn.scenes)

    def _logits(self, probe: Logits, latents: Tensor, timestep: Tensor, generator: torch.Generator) -> Tensor:
        """Class logits where the label is all but noise."""
        size = (len(latents), self.denoiser.config.out_channels, *latents.shape[2:])
        inputs = torch.cat([torch.randn(size, generator=generator), latents], 1)
        with torch.autocast("cpu", torch.bfloat16):
            return probe(inputs, timestep, self.nothing.expand(len(latents), -1, -1))
