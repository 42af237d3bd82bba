"""G4Seg (arXiv 2506.01539) in PyTorch: the oracle that every engine is held against. Read beside `docs/method.md`.

Symbols: latents z0 (1, c, h, w) of the image; P (1, 1, h, w), the probability of foreground on the latent grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from segrefine.reference.alignment import align
from segrefine.reference.attention import MaskInjection, inject_masks
from segrefine.reference.checkpoint import Checkpoint
from segrefine.reference.features import extract_features
from segrefine.reference.prompts import encode_prompt
from segrefine.reference.text import Text, expand_text, predict
from segrefine.runtime.evidence import gather_evidence
from segrefine.runtime.worth import WordEffect, choose_nulls, measure_worth
from segrefine.settings import G4SegSettings


@dataclass(frozen=True, kw_only=True)
class ReferenceRound:
    """Result of one round; maps are (1, 1, h, w).

    Attributes:
        generated: (1, c, h, w) latents of the mask-conditional image.
        discrepancy: how much a pixel disagrees with the generation.
        estimate: the new estimate of P.
        probability: P after the round.
    """

    generated: Tensor
    discrepancy: Tensor
    estimate: Tensor
    probability: Tensor


@dataclass(frozen=True, kw_only=True)
class ReferenceResult:
    """A refined mask on the latent grid, and how it came about.

    Attributes:
        latents: (1, c, h, w) of the image.
        text_evidence: (h, w) how much better the label explains each pixel than no label does.
        worth: what the text's evidence is worth, in [0, 1]; None where it was not measured.
        rounds: one entry for each round; none where the evidence is worth nothing.
        probability: (1, 1, h, w) P after the last round.
    """

    latents: Tensor
    text_evidence: Tensor
    worth: float | None
    rounds: tuple[ReferenceRound, ...]
    probability: Tensor


Strengths = tuple[float, float]
"""Of the mask's injection into self-attention and into cross-attention."""


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
        self.prompt, self.indicator = self.encode_label(label, image.shape[2:])
        self.unconditional = self.model.encode_text([""], image.shape[2:])
        z0 = self.model.encode_image(image)
        worth = self.measure_worth(z0, coarse, noise, label, image.shape[2:])
        text = self.text_evidence(z0, coarse, noise, worth)
        p, rounds = coarse, []
        if worth == 0:  # the model does not know the label: it has nothing to say
            return ReferenceResult(latents=z0, text_evidence=text, worth=worth, rounds=(), probability=p)
        evidence = self.gather_evidence(image, coarse, text)
        original = self.features(z0, noise)
        for t, width in zip(s.timesteps, s.confusion, strict=True):
            generated = self.generate(z0, p, t, noise)
            if s.comparison == "unmasked":
                original = self.features(self.generate(z0, p, t, noise, masked=False), noise)
            parameters = torch.tensor([[s.temperature, s.mixing, width, s.position_weight]])
            compare = partial(align, original, self.features(generated, noise), p, parameters=parameters)
            discrepancy, estimate, updated = compare(evidence)
            if s.discrepancy_weight:
                _, estimate, updated = compare(evidence + self.doubt_sides(discrepancy, p))
            p = updated
            rounds.append(
                ReferenceRound(generated=generated, discrepancy=discrepancy, estimate=estimate, probability=p)
            )
        return ReferenceResult(latents=z0, text_evidence=text, worth=worth, rounds=tuple(rounds), probability=p)

    def encode_label(self, label: str, size: Sequence[int]) -> tuple[Text, Tensor]:
        """The prompt, under an image of a size, and its token indicator (1, tokens, 2): label, other words."""
        return encode_prompt(self.model, self.settings.template, label, size)

    def text_evidence(self, z0: Tensor, coarse: Tensor, noise: Tensor, worth: float | None) -> Tensor:
        """Return how much better the label explains each pixel than no label does, (h, w).

        The squared error that the label takes away, and how much it changes the prediction at all (as in DiffEdit,
        arXiv 2210.11427), in units of v-prediction, which weighs noise levels alike. The mean over noise levels, each
        with one of the noises, and over the strengths with which the coarse mask hands the label to its pixels. Zeros
        where the evidence is worth nothing.
        """
        s, total = self.settings, torch.zeros(z0.shape[2:])
        if not s.asks_text or worth == 0:
            return total
        levels = range(len(s.text_timesteps))
        for strength in s.text_strengths:
            effect = self.explain(z0, self.prompt, levels, noise, coarse, strength)
            total += torch.from_numpy(effect.evidence[0]).to(total)
        return total / len(s.text_strengths)

    def explain(
        self, z0: Tensor, prompt: Text, levels: Sequence[int], noise: Tensor, coarse: Tensor, strength: float
    ) -> WordEffect:
        """Compute the effect of one prompt on the prediction, against no prompt."""
        s, parts, shifts = self.settings, [], []
        for level in levels:
            t = s.text_timesteps[level]
            noisy = self.add_noise(z0, t, noise[level % len(noise)][None])
            plain = self.denoise(noisy, t, self.unconditional)
            named = self.denoise(noisy, t, prompt, coarse if strength else None, (0.0, strength))
            differences = torch.cat([plain - z0, named - z0, named - plain])
            share = 1 - float(self.scheduler.alphas_cumprod[t])
            parts.append(differences.square().mean(1) / share)
            shifts.append((named - plain) / share**0.5)
        error, named_error, change = torch.stack(parts).mean(0)
        evidence = error - named_error + s.text_effect * change
        evidence, shift, error = (each.numpy(force=True) for each in (evidence, torch.cat(shifts), error))
        return WordEffect(evidence=evidence[None], shift=shift[None], error=error)

    def measure_worth(self, z0: Tensor, coarse: Tensor, noise: Tensor, label: str, size: Sequence[int]) -> float | None:
        """Return the worth of the text's evidence by the runtime's measure, which is ours; None if not measured."""
        s = self.settings
        if not s.measures_worth:
            return None
        prompts = [self.prompt, *(self.encode_label(word, size)[0] for word in choose_nulls([label], s))]
        of_label, *of_nulls = (self.explain(z0, each, s.probe_levels, noise, coarse, 0.0) for each in prompts)
        nulls = WordEffect(
            evidence=np.concatenate([each.evidence for each in of_nulls]),
            shift=np.concatenate([each.shift for each in of_nulls]),
            error=of_label.error,
        )
        return measure_worth(of_label, nulls, coarse[0, 0].numpy(force=True), s)

    def gather_evidence(self, image: Tensor, coarse: Tensor, text: Tensor) -> Tensor:
        """Log-odds of foreground from the coarse mask and the text, (1, 1, h, w): the runtime's, for it is ours."""
        pixels = (127.5 * (image[0].permute(1, 2, 0) + 1)).round().to(torch.uint8)
        evidence = gather_evidence(
            pixels.numpy(force=True), coarse[0, 0].numpy(force=True), text.numpy(force=True), self.settings
        )
        return torch.from_numpy(evidence).to(image.device)[None, None]

    def doubt_sides(self, discrepancy: Tensor, p: Tensor) -> Tensor:
        """Log-odds (1, 1, h, w) against each pixel's side: w (1 − 2 P) (h / mean of h − 1), h the discrepancy."""
        return self.settings.discrepancy_weight * (1 - 2 * p) * (discrepancy / discrepancy.mean() - 1)

    def generate(self, z0: Tensor, p: Tensor, t: int, noise: Tensor, *, masked: bool = True) -> Tensor:
        """The latents (1, c, h, w) of the mask-conditional image, or of that without the mask's injection."""
        s = self.settings
        strengths = (s.self_strength, s.cross_strength) if masked else (0.0, 0.0)
        if s.mode == "loop":
            return self.sample(self.invert(z0, t), t, p, strengths)
        start = self.add_noise(z0, t, noise)
        output = self.predict_guided(start, t, p, strengths)
        clean: Tensor = self.scheduler.step(output, t, start).pred_original_sample
        self.observe("one-step", t, clean)
        return clean.mean(0, keepdim=True)

    def features(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Descriptors (1, N, C) of the pixels of `latents`, slightly noised, as the UNet expects them; no mask."""
        t = self.settings.feature_timestep
        noisy = self.add_noise(latents, t, noise[:1])
        return extract_features(self.model.unet, noisy, torch.tensor([t]), self.prompt, self.taps)

    def add_noise(self, latents: Tensor, t: int, noise: Tensor) -> Tensor:
        """The latents at noise level t, once for each noise: (noises, c, h, w)."""
        noisy: Tensor = self.scheduler.add_noise(latents.expand_as(noise), noise, torch.tensor([t]))
        return noisy

    def denoise(
        self, sample: Tensor, t: int, text: Text, p: Tensor | None = None, strengths: Strengths = (0.0, 0.0)
    ) -> Tensor:
        """Clean latents (B, c, h, w) in one step from `sample` at level t."""
        output = self.predict(sample, t, text, p, strengths)
        clean: Tensor = self.scheduler.step(output, t, sample).pred_original_sample
        return clean

    def predict(
        self, sample: Tensor, t: int, text: Text, p: Tensor | None = None, strengths: Strengths = (0.0, 0.0)
    ) -> Tensor:
        """The UNet's output (B, c, h, w), with the mask p (B, 1, h, w) injected if there is one."""
        batch = len(sample)
        inputs = sample, torch.full((batch,), t), expand_text(text, batch)
        if p is None:
            return predict(self.model.unet, *inputs)
        injection = MaskInjection(
            foreground=p.expand(batch, -1, -1, -1),
            token_indicator=self.indicator.expand(batch, -1, -1),
            strength=torch.tensor([strengths]).expand(batch, -1),
        )
        with self.injector.apply(injection):
            return predict(self.model.unet, *inputs)

    def predict_guided(self, sample: Tensor, t: int, p: Tensor, strengths: Strengths) -> Tensor:
        """The UNet's output (B, c, h, w) for the prompt under the masks p, with classifier-free guidance."""
        scale = self.settings.guidance_scale
        output = self.predict(sample, t, self.prompt, p, strengths)
        if scale == 1:
            return output
        plain = self.predict(sample, t, self.unconditional)
        return plain + scale * (output - plain)

    def invert(self, z0: Tensor, t: int) -> Tensor:
        """The noisy latents at level t from which DDIM comes (nearly) back to z0, (1, c, h, w)."""
        sample = z0
        for step in self.inverse.timesteps[self.inverse.timesteps <= t]:
            sample = self.inverse.step(self.predict(sample, int(step), self.prompt), int(step), sample).prev_sample
            self.observe("inversion", int(step), sample)
        return sample

    def sample(self, start: Tensor, t: int, p: Tensor, strengths: Strengths) -> Tensor:
        """Clean latents (B, c, h, w), sampled by DDIM from `start` at level t under the masks p (B, 1, h, w)."""
        sample = start
        for step in self.scheduler.timesteps[self.scheduler.timesteps <= t]:
            output = self.predict_guided(sample, int(step), p, strengths)
            sample = self.scheduler.step(output, int(step), sample).prev_sample
            self.observe("sampling", int(step), sample)
        return sample
