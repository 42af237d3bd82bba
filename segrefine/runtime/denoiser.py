"""The diffusion model under a prompt and a mask: what the pipeline asks of the UNet, in few engine calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.engines import Engine, cut_batch
from segrefine.runtime.engine_set import check_finite
from segrefine.runtime.sampler import invert_ddim, sample_ddim
from segrefine.runtime.schedule import NoiseSchedule
from segrefine.runtime.text import Text, pick_texts
from segrefine.settings import G4SegSettings
from segrefine.spec import MAX_PIXELS

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
Strengths = tuple[float, float]
"""Of the masks' injection into self-attention and into cross-attention."""
Observe = Callable[[str, int, Floats], None]
"""Called with the stage, the timestep and the latents (B, c, h, w) that each step of generation gave."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the UNet is told besides the sample, of L labels. Prompts are known by number: 0 to L − 1, and `NOTHING`.

    Attributes:
        texts: L + 1 of them: the prompts that name the labels, and the empty prompt.
        token_indicator: float32 (L + 1, tokens, 2), see `Prompt`; zeros for the empty prompt.
    """

    texts: Text
    token_indicator: Floats


NOTHING = -1
"""The number of the empty prompt."""


@dataclass(frozen=True, kw_only=True)
class _Injection:
    """Masks (B, h, w), and the strengths (B, 2) of self- and cross-attention with which they are injected."""

    masks: Floats
    strengths: Floats


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """A UNet, its noise schedule, and the conditions of one image.

    Attributes:
        engines: `unet` and `unet_features` are used.
        schedule: the noise levels.
        settings: the method's numbers.
        conditions: the prompts.
        observe: told of every step of generation.
    """

    engines: Mapping[str, Engine]
    schedule: NoiseSchedule
    settings: G4SegSettings
    conditions: Conditions
    observe: Observe | None = None

    def text_evidence(self, z0: Floats, coarse: Floats, noise: Floats) -> Floats:
        """How much better each label explains each pixel than no label does, float32 (L, h, w).

        The squared error that the label takes away, and how much it changes the prediction at all (as in DiffEdit,
        arXiv 2210.11427), in units of v-prediction, which weighs noise levels alike. The mean over levels, noises and
        the strengths with which the coarse masks (L, h, w) hand their labels to their pixels. Zeros, at no cost, where
        the settings do not ask for it.
        """
        s, count = self.settings, len(coarse)
        if not s.asks_text:
            return np.zeros_like(coarse)
        tried, each_noise = (s.text_strengths, len(noise)) if count == 1 else (s.joint_strengths, 1)
        levels = np.repeat(np.array(s.text_timesteps, np.int64), each_noise)
        drawn = noise[np.arange(len(levels)) % len(noise)]  # of several labels, each level has one of the noises
        noisy = self.schedule.add_noise(np.repeat(z0, len(levels), 0), drawn, levels)
        each, trials = len(noisy), len(tried)
        total = 1 + count * trials  # the empty prompt first, then every label at every strength
        samples, timesteps = np.tile(noisy, (total, 1, 1, 1)), np.tile(levels, total)
        prompts = np.repeat([NOTHING, *np.repeat(np.arange(count), trials)], each)
        strengths = np.repeat((0.0, *np.tile(tried, count)), each)
        injected = _Injection(
            masks=coarse[prompts.clip(0)],
            strengths=np.stack([np.zeros_like(strengths), strengths], 1, dtype=np.float32),
        )
        outputs = self._predict(samples, timesteps, prompts, step="text evidence", injected=injected)
        clean = self.schedule.predict_clean(outputs, samples, timesteps)
        plain, named = clean[:each], clean[each:].reshape(count, trials, *noisy.shape)
        gained = np.square(plain - z0) - np.square(named - z0) + s.text_effect * np.square(named - plain)
        noise_share = (1 - self.schedule.alphas_cumprod[levels])[:, None, None]
        return np.asarray((gained.mean(3) / noise_share).mean((1, 2)), np.float32)

    def generate(self, z0: Floats, probability: Floats, t: int, noise: Floats, *, masked: bool = True) -> Floats:
        """Latents (L, c, h, w) of the mask-conditional images: z0 noised to level t, and denoised under each mask.

        Args:
            z0: float32 (1, c, h, w).
            probability: float32 (L, h, w) of each label.
            t: timestep.
            noise: float32 (K, c, h, w); the mean over them is given.
            masked: whether the masks are injected; without them, only their number counts.
        """
        count = len(probability)
        strengths = (self.settings.self_strength, self.settings.cross_strength) if masked else (0.0, 0.0)
        if self.settings.mode == "loop":
            return self._generate_by_loop(np.repeat(z0, count, 0), probability, t, strengths)
        noisy = np.tile(self.schedule.add_noise(z0, noise, t), (count, 1, 1, 1))
        prompts, masks = np.repeat(np.arange(count), len(noise)), np.repeat(probability, len(noise), 0)
        output = self._predict_masked(noisy, t, prompts, masks, strengths, f"t={t}")
        clean = self.schedule.predict_clean(output, noisy, t)
        self._tell("one-step", t, clean)
        return np.asarray(clean.reshape(count, len(noise), *z0.shape[1:]).mean(1), np.float32)

    def features(self, latents: Floats, noise: Floats, prompt: int) -> Floats:
        """Descriptors (B, N, C) of `latents` (B, c, h, w), slightly noised, under a prompt, without a mask."""
        t, count = self.settings.feature_timestep, len(latents)
        sample = self.schedule.add_noise(latents, noise[:1], t)
        feeds = self._feeds(sample, np.full(count, t, np.int64), np.full(count, prompt))
        return self._run("unet_features", feeds, "features", f"t={t}")

    def _generate_by_loop(self, z0: Floats, masks: Floats, t: int, strengths: Strengths) -> Floats:
        """Clean latents (L, c, h, w): inverted to level t without a mask, sampled back under masks (L, h, w)."""
        steps, prompts = self.settings.loop_steps, np.arange(len(masks))

        def plain(sample: Floats, timestep: int) -> Floats:
            timesteps = np.full(len(sample), timestep, np.int64)
            return self._predict(sample, timesteps, prompts, step=f"inversion, t={timestep}")

        def masked(sample: Floats, timestep: int) -> Floats:
            return self._predict_masked(sample, timestep, prompts, masks, strengths, f"sampling, t={timestep}")

        def watch(stage: str) -> Callable[[int, int, Floats], None]:
            return lambda _, timestep, latents: self._tell(stage, timestep, latents)

        start = invert_ddim(plain, z0, self.schedule, steps, end=t, callback=watch("inversion"))
        return sample_ddim(masked, start, self.schedule, steps, start=t, callback=watch("sampling"))

    def _tell(self, stage: str, timestep: int, latents: Floats) -> None:
        if self.observe:
            self.observe(stage, timestep, latents)

    def _predict_masked(
        self, sample: Floats, t: int, prompts: Indices, masks: Floats, strengths: Strengths, step: str
    ) -> Floats:
        """The UNet's output with masks (B, h, w) injected, guided."""
        batch, scale = len(sample), self.settings.guidance_scale
        timestep = np.full(batch, t, np.int64)
        injected = _Injection(masks=masks, strengths=np.tile(np.array(strengths, np.float32), (batch, 1)))
        output = self._predict(sample, timestep, prompts, step=step, injected=injected)
        if scale == 1:
            return output
        plain = self._predict(sample, timestep, np.full_like(prompts, NOTHING), step=step)
        return plain + np.float32(scale) * (output - plain)

    def _predict(
        self,
        sample: Floats,
        timestep: NDArray[np.int64],
        prompts: Indices,
        *,
        step: str,
        injected: _Injection | None = None,
    ) -> Floats:
        """The UNet's output for a batch of any size, each sample under its prompt."""
        return self._run("unet", self._feeds(sample, timestep, prompts, injected), "out_sample", step)

    def _feeds(
        self, sample: Floats, timestep: NDArray[np.int64], prompts: Indices, injected: _Injection | None = None
    ) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
        batch, (height, width) = len(sample), sample.shape[2:]
        masks = injected.masks if injected else np.zeros((batch, height, width), np.float32)
        return {
            "sample": sample.astype(np.float32, copy=False),
            "timestep": timestep,
            **pick_texts(self.conditions.texts, prompts),
            "foreground": masks[:, None],
            "token_indicator": self.conditions.token_indicator[prompts],
            "strength": injected.strengths if injected else np.zeros((batch, 2), np.float32),
        }

    def _run(self, component: str, feeds: Mapping[str, NDArray[Any]], output: str, step: str) -> Floats:
        """An engine's output for a batch of any size, once all of it is finite."""
        most = max(1, MAX_PIXELS // feeds["sample"][0, 0].size)
        parts = [self.engines[component](part, only=output)[output] for part in cut_batch(feeds, most)]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)  # the very array: a GPU may still have it
        return check_finite(whole, component, step)
