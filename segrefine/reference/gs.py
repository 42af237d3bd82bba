"""GS, label diffusion (arXiv 2508.20020), in PyTorch: the oracle that every engine is held against.

Symbols: z (1, c, h, w), latents of the image; y (B, C, h, w), label latents; K samples of each of P phrases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch
from torch import Tensor

from segrefine.errors import SettingsError
from segrefine.reference.checkpoint import LabelCheckpoint
from segrefine.reference.text import Text, expand_text, predict
from segrefine.samplers import SAMPLERS
from segrefine.settings import GsSettings


class Gs:
    """Generates masks from noise, conditioned on an image and phrases.

    Args:
        checkpoint: the model.
        settings: the method's numbers.
        observe: called with "sampling", the timestep and the label latents (B, C, h, w) of every step.

    Raises:
        SettingsError: diffusers has no such sampler.
    """

    def __init__(
        self,
        checkpoint: LabelCheckpoint,
        settings: GsSettings,
        observe: Callable[[str, int, Tensor], None] = lambda stage, timestep, latents: None,
    ) -> None:
        self.model, self.settings, self.observe = checkpoint, settings, observe
        self.sampler = SAMPLERS[settings.sampler]
        if self.sampler.scheduler is None:
            known = ", ".join(name for name, each in SAMPLERS.items() if each.scheduler)
            raise SettingsError(subject="sampler", expected=f"one that diffusers has ({known})", got=settings.sampler)
        scheduler: Any = getattr(diffusers, self.sampler.scheduler)
        self.scheduler: Any = scheduler.from_config(checkpoint.scheduler_config)

    @torch.no_grad()
    def segment(self, image: Tensor, phrases: Sequence[str], noise: Tensor, fresh: Tensor | None = None) -> Tensor:
        """The sampled masks (P, K, H', W') in [0, 1], at the label codec's resolution.

        Args:
            image: (1, 3, H, W) in [-1, 1]; H and W are multiples of the model's pixel grid.
            phrases: P of them.
            noise: (K, C, h, w), standard normal; where the samples of every phrase set out from.
            fresh: (steps − 1, K, C, h, w), standard normal; what a sampler such as "lcm" adds between its steps.
        """
        count = len(noise)
        z = self.model.encode_image(image).expand(len(phrases) * count, -1, -1, -1)
        asked = phrases if self.settings.context else [str(phrase) for phrase in phrases]
        text = self.model.encode_text(asked, image.shape[2:])
        text = {name: values.repeat_interleave(count, 0) for name, values in text.items()}
        latents = self.sample(z, text, noise.repeat(len(phrases), 1, 1, 1), fresh)
        masks = self.model.codec.decode(latents)
        return masks.reshape(len(phrases), count, *masks.shape[2:])

    def sample(self, z: Tensor, text: Text, start: Tensor, fresh: Tensor | None = None) -> Tensor:
        """Label latents (B, C, h, w), sampled from the noise `start` under image latents z and phrases, one each."""
        size = [side * self.model.vae_scale_factor for side in z.shape[2:]]
        self.scheduler.set_timesteps(self.settings.steps)
        y, timesteps = start, self.scheduler.timesteps
        nothing = self.model.encode_text([""], size) if self.settings.predictions > 1 else {}
        for index, timestep in enumerate(timesteps):
            step = self.scheduler.step(self.predict_guided(y, int(timestep), z, text, nothing), timestep, y)
            if not self.sampler.takes_noise:
                y = step.prev_sample
            elif fresh is None or index + 1 == len(timesteps):
                y = step.denoised
            else:
                noise = fresh[index].repeat(len(y) // len(fresh[index]), 1, 1, 1)
                y = self.scheduler.add_noise(step.denoised, noise, timesteps[index + 1 :][:1])
            self.observe("sampling", int(timestep), y)
        return y

    def predict_guided(self, y: Tensor, timestep: int, z: Tensor, text: Text, nothing: Text) -> Tensor:
        """The denoiser's output (B, C, h, w) with classifier-free guidance by image and phrase.

        ε = ε(∅, ∅) + s_image (ε(z, ∅) − ε(∅, ∅)) + s_text (ε(z, text) − ε(z, ∅)); terms of weight 0 are left out.
        """
        s_text, s_image = self.settings.guidance_scale, self.settings.image_guidance_scale
        output = s_text * self.predict(y, timestep, z, text)
        if s_text == s_image == 1:
            return output
        nothing = expand_text(nothing, len(y))
        if s_image != s_text:
            output = output + (s_image - s_text) * self.predict(y, timestep, z, nothing)
        if s_image != 1:
            output = output + (1 - s_image) * self.predict(y, timestep, torch.zeros_like(z), nothing)
        return output

    def predict(self, y: Tensor, timestep: int, z: Tensor, text: Text) -> Tensor:
        """The denoiser's output (B, C, h, w) for label latents y, joined with the image's latents."""
        return predict(self.model.label_denoiser, torch.cat([y, z], 1), torch.full((len(y),), timestep), text)
