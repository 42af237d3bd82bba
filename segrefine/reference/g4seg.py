"""G4Seg (arXiv 2506.01539) in PyTorch: the oracle that every engine is held against. Read beside `docs/method.md`.

Symbols: latents z0 (1, c, h, w) of the image; P (1, 1, h, w), the probability of foreground on the latent grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from segrefine.reference.alignment import align
from segrefine.reference.attention import MaskInjection, inject_masks
from segrefine.reference.checkpoint import Checkpoint
from segrefine.reference.features import extract_features
from segrefine.settings import G4SegSettings


@dataclass(frozen=True, kw_only=True)
class ReferenceRound:
    """What one round computed; maps are (1, 1, h, w).

    Attributes:
        generated: (1, c, h, w) latents of the mask-conditional image.
        contrast: error under the opposite mask minus error under the mask: positive where the mask explains the image.
        discrepancy: how much a pixel disagrees with the generation.
        estimate: the new estimate of P.
        probability: P after the round.
    """

    generated: Tensor
    contrast: Tensor
    discrepancy: Tensor
    estimate: Tensor
    probability: Tensor


@dataclass(frozen=True, kw_only=True)
class ReferenceResult:
    """A refined mask on the latent grid, and how it came about.

    Attributes:
        latents: (1, c, h, w) of the image.
        text_evidence: (1, 1, h, w) error that the label takes away.
        rounds: one entry for each round.
        probability: (1, 1, h, w) P after the last round.
    """

    latents: Tensor
    text_evidence: Tensor
    rounds: tuple[ReferenceRound, ...]
    probability: Tensor


class G4Seg:
    """Training-free refinement of a coarse mask by a text-to-image diffusion model.

    Args:
        checkpoint: the model.
        settings: the method's numbers.
        taps: named submodules of the UNet whose outputs are the features.
        observe: called with the stage, the timestep and the latents (B, c, h, w) of every step of generation.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: G4SegSettings,
        taps: tuple[str, ...],
        observe: Callable[[str, int, Tensor], None] = lambda stage, timestep, latents: None,
    ) -> None:
        self.model, self.settings, self.taps, self.observe = checkpoint, settings, taps, observe
        self.injector = inject_masks(checkpoint.unet)
        self.scheduler = DDIMScheduler.from_config(checkpoint.scheduler_config)
        self.inverse = DDIMInverseScheduler.from_config(checkpoint.scheduler_config)
        for scheduler in (self.scheduler, self.inverse):
            scheduler.set_timesteps(settings.loop_steps)

    @torch.no_grad()
    def refine(self, image: Tensor, coarse: Tensor, label: str, noise: Tensor) -> ReferenceResult:
        """The refined probability of one image.

        Args:
            image: (1, 3, H, W) in [-1, 1]; H and W are multiples of the model's pixel grid.
            coarse: (1, 1, h, w) coarse mask as a probability in [0, 1], on the latent grid.
            label: what the mask shows.
            noise: (noises, c, h, w), drawn from a standard normal distribution.
        """
        s = self.settings
        self.prompt, self.indicator = self.encode_label(label)
        self.unconditional = self.encode_text("")
        z0 = self.encode_image(image)
        prior = s.prior_weight * torch.logit(coarse, eps=0.02)
        text = self.text_evidence(z0, noise)
        original = self.features(z0, noise)
        p, rounds = coarse, []
        for t, width in zip(s.timesteps, s.confusion, strict=True):
            generated, contrast = self.generate(z0, p, t, noise)
            evidence = prior + s.text_weight * text + s.contrast_weight * contrast
            parameters = torch.tensor([[s.temperature, s.mixing, width, s.position_weight]])
            discrepancy, estimate, p = align(original, self.features(generated, noise), p, evidence, parameters)
            rounds.append(
                ReferenceRound(
                    generated=generated, contrast=contrast, discrepancy=discrepancy, estimate=estimate, probability=p
                )
            )
        return ReferenceResult(latents=z0, text_evidence=text, rounds=tuple(rounds), probability=p)

    def encode_image(self, image: Tensor) -> Tensor:
        """Latents (1, c, h, w) of an image (1, 3, H, W) in [-1, 1]: the mean of the codec's posterior, scaled."""
        vae = self.model.vae
        mean: Tensor = vae.encode(image).latent_dist.mean
        return mean * float(vae.config.scaling_factor)

    def encode_text(self, text: str) -> Tensor:
        """The text encoder's states (1, tokens, hidden)."""
        ids = self.model.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
        states: Tensor = self.model.text_encoder(ids).last_hidden_state
        return states

    def encode_label(self, label: str) -> tuple[Tensor, Tensor]:
        """States of the prompt (1, tokens, hidden), and its token indicator (1, tokens, 2): label, other words."""
        before = self.settings.template.split("{label}")[0]
        text = self.settings.template.format(label=label)
        start, stop, end = (len(self.model.tokenizer(part).input_ids) - 1 for part in (before, before + label, text))
        indicator = torch.zeros(1, self.model.tokenizer.model_max_length, 2)
        indicator[0, 1:end, 1] = 1
        indicator[0, start:stop] = torch.tensor([1.0, 0.0])
        return self.encode_text(text), indicator

    def text_evidence(self, z0: Tensor, noise: Tensor) -> Tensor:
        """How much less error denoising makes with the label than without, per pixel (1, 1, h, w), blurred."""
        errors = torch.zeros(2, *z0.shape[2:])
        for t in self.settings.text_timesteps:
            for i, states in enumerate((self.prompt, self.unconditional)):
                clean = self.denoise(self.add_noise(z0, t, noise), t, states)
                errors[i] += self.velocity_error(clean, z0, t) / len(self.settings.text_timesteps)
        return blur(errors[1] - errors[0], self.settings.blur)

    def generate(self, z0: Tensor, p: Tensor, t: int, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The mask-conditional image's latents (1, c, h, w), and the contrast with its opposite (1, 1, h, w)."""
        if self.settings.mode == "one-step":
            start = self.add_noise(z0, t, noise)
            clean = torch.cat([self.denoise(start, t, self.prompt, mask) for mask in (p, 1 - p)])
            self.observe("one-step", t, clean)
        else:
            start = self.invert(z0, t)
            clean = self.sample(start.expand(2, -1, -1, -1), t, torch.cat([p, 1 - p]))
        under_mask, under_opposite = clean.chunk(2)
        contrast = self.velocity_error(under_opposite, z0, t) - self.velocity_error(under_mask, z0, t)
        return under_mask.mean(0, keepdim=True), blur(contrast, self.settings.blur)

    def features(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Descriptors (1, N, C) of the pixels of `latents`, slightly noised, as the UNet expects them; no mask."""
        t = self.settings.feature_timestep
        noisy = self.add_noise(latents, t, noise[:1])
        return extract_features(self.model.unet, noisy, torch.tensor([t]), self.prompt, self.taps)

    def add_noise(self, latents: Tensor, t: int, noise: Tensor) -> Tensor:
        """The latents at noise level t, once for each noise: (noises, c, h, w)."""
        noisy: Tensor = self.scheduler.add_noise(latents.expand_as(noise), noise, torch.tensor([t]))
        return noisy

    def denoise(self, sample: Tensor, t: int, states: Tensor, p: Tensor | None = None) -> Tensor:
        """Clean latents (B, c, h, w) in one step from `sample` at level t; under the mask `p` if there is one."""
        clean: Tensor = self.scheduler.step(self.predict(sample, t, states, p), t, sample).pred_original_sample
        return clean

    def predict(self, sample: Tensor, t: int, states: Tensor, p: Tensor | None = None) -> Tensor:
        """The UNet's output (B, c, h, w), with guidance where `p` is injected."""
        s, batch = self.settings, len(sample)
        inputs = sample, torch.full((batch,), t), states.expand(batch, -1, -1)
        output: Tensor
        if p is None:
            output = self.model.unet(*inputs).sample
            return output
        injection = MaskInjection(
            foreground=p.expand(batch, -1, -1, -1),
            token_indicator=self.indicator.expand(batch, -1, -1),
            strength=torch.tensor([[s.self_strength, s.cross_strength]]).expand(batch, -1),
        )
        with self.injector.apply(injection):
            output = self.model.unet(*inputs).sample
        if s.guidance_scale == 1:
            return output
        plain = self.predict(sample, t, self.unconditional)
        return plain + s.guidance_scale * (output - plain)

    def invert(self, z0: Tensor, t: int) -> Tensor:
        """The noisy latents at level t from which DDIM comes (nearly) back to z0, (1, c, h, w)."""
        sample = z0
        for step in self.inverse.timesteps[self.inverse.timesteps <= t]:
            sample = self.inverse.step(self.predict(sample, int(step), self.prompt), int(step), sample).prev_sample
            self.observe("inversion", int(step), sample)
        return sample

    def sample(self, start: Tensor, t: int, p: Tensor) -> Tensor:
        """Clean latents (B, c, h, w), sampled by DDIM from `start` at level t under the masks p (B, 1, h, w)."""
        sample = start
        for step in self.scheduler.timesteps[self.scheduler.timesteps <= t]:
            sample = self.scheduler.step(self.predict(sample, int(step), self.prompt, p), int(step), sample).prev_sample
            self.observe("sampling", int(step), sample)
        return sample

    def velocity_error(self, clean: Tensor, z0: Tensor, t: int) -> Tensor:
        """Squared error per pixel (h, w), mean over channels and noises; of v, which weighs levels alike."""
        noise_share = 1 - float(self.scheduler.alphas_cumprod[t])
        return (clean - z0).square().mean((0, 1)) / noise_share


def blur(error: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of a map (h, w), with the border mirrored; (1, 1, h, w)."""
    radius = max(1, round(3 * sigma))
    x = torch.arange(-radius, radius + 1, dtype=error.dtype)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(error[None, None], [radius] * 4, mode="reflect" if min(error.shape) > radius else "replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
