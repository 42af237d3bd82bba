"""The diffusion model under a prompt and a mask: what the pipeline asks of the UNet, in few engine calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segrefine.engines import Engine, cut_batch
from segrefine.runtime.engine_set import check_finite
from segrefine.runtime.sampler import invert_ddim, sample_ddim
from segrefine.runtime.schedule import NoiseSchedule
from segrefine.runtime.text import Text, join_texts, repeat_texts
from segrefine.settings import G4SegSettings
from segrefine.spec import MAX_PIXELS

Floats = NDArray[np.float32]
Observe = Callable[[str, int, Floats], None]
"""Called with the stage, the timestep and the latents (B, c, h, w) that each step of generation gave."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the UNet is told besides the sample.

    Attributes:
        label: the prompt that names the label.
        nothing: the empty prompt.
        token_indicator: float32 (1, tokens, 2), see `Prompt`.
    """

    label: Text
    nothing: Text
    token_indicator: Floats


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
        conditions: prompt and label.
        observe: told of every step of generation.
    """

    engines: Mapping[str, Engine]
    schedule: NoiseSchedule
    settings: G4SegSettings
    conditions: Conditions
    observe: Observe | None = None

    def text_evidence(self, z0: Floats, coarse: Floats, noise: Floats) -> Floats:
        """How much better the label explains each pixel than no label does, float32 (h, w).

        The squared error that the label takes away, and how much it changes the prediction at all (as in DiffEdit,
        arXiv 2210.11427), in units of v-prediction, which weighs noise levels alike. The mean over levels, noises and
        the strengths with which the coarse mask (h, w) hands the label to its pixels.
        """
        s = self.settings
        noisy = np.concatenate([self.schedule.add_noise(z0, noise, t) for t in s.text_timesteps])
        levels = np.repeat(np.array(s.text_timesteps, np.int64), len(noise))
        trials, strengths = 1 + len(s.text_strengths), np.repeat((0.0, *s.text_strengths), len(noisy))
        samples, timesteps = np.tile(noisy, (trials, 1, 1, 1)), np.tile(levels, trials)
        texts = join_texts([self.conditions.nothing, *[self.conditions.label] * len(s.text_strengths)])
        injected = _Injection(
            masks=np.tile(coarse, (len(samples), 1, 1)),
            strengths=np.stack([np.zeros_like(strengths), strengths], 1).astype(np.float32),
        )
        outputs = self._predict(
            samples, timesteps, repeat_texts(texts, len(noisy)), step="text evidence", injected=injected
        )
        clean = self.schedule.predict_clean(outputs, samples, timesteps).reshape(trials, *noisy.shape)
        plain, named = clean[:1], clean[1:]
        gained = np.square(plain - z0) - np.square(named - z0) + s.text_effect * np.square(named - plain)
        noise_share = (1 - self.schedule.alphas_cumprod[levels])[:, None, None]
        return np.asarray((gained.mean(2) / noise_share).mean((0, 1)), np.float32)

    def generate(self, z0: Floats, probability: Floats, t: int, noise: Floats) -> Floats:
        """Latents (1, c, h, w) of the mask-conditional image: z0 noised to level t, and denoised under the mask."""
        if self.settings.mode == "loop":
            return self._generate_by_loop(z0, probability[None], t)
        noisy = self.schedule.add_noise(z0, noise, t)
        masks = np.repeat(probability[None], len(noisy), 0)
        clean = self.schedule.predict_clean(self._predict_masked(noisy, t, masks, f"t={t}"), noisy, t)
        self._tell("one-step", t, clean)
        return np.asarray(clean.mean(0, keepdims=True), np.float32)

    def features(self, latents: Floats, noise: Floats) -> Floats:
        """Descriptors (1, N, C) of the pixels of `latents` (1, c, h, w), slightly noised, without a mask."""
        t = self.settings.feature_timestep
        sample = self.schedule.add_noise(latents, noise[:1], t)
        feeds = self._feeds(sample, np.full(1, t, np.int64), self.conditions.label)
        return self._checked("unet_features", feeds, "features", f"t={t}")

    def _generate_by_loop(self, z0: Floats, masks: Floats, t: int) -> Floats:
        """Clean latents (1, c, h, w): inverted to level t without a mask, sampled back under masks (1, h, w)."""
        steps, label = self.settings.loop_steps, self.conditions.label

        def plain(sample: Floats, timestep: int) -> Floats:
            return self._predict(sample, np.full(1, timestep, np.int64), label, step=f"inversion, t={timestep}")

        def masked(sample: Floats, timestep: int) -> Floats:
            return self._predict_masked(sample, timestep, masks, f"sampling, t={timestep}")

        def watch(stage: str) -> Callable[[int, int, Floats], None]:
            return lambda _, timestep, latents: self._tell(stage, timestep, latents)

        start = invert_ddim(plain, z0, self.schedule, steps, end=t, callback=watch("inversion"))
        return sample_ddim(masked, start, self.schedule, steps, start=t, callback=watch("sampling"))

    def _tell(self, stage: str, timestep: int, latents: Floats) -> None:
        if self.observe:
            self.observe(stage, timestep, latents)

    def _predict_masked(self, sample: Floats, t: int, masks: Floats, step: str) -> Floats:
        """The UNet's output with masks (B, h, w) injected, guided."""
        batch, scale = len(sample), self.settings.guidance_scale
        timestep, label = np.full(batch, t, np.int64), repeat_texts(self.conditions.label, batch)
        strengths = np.tile(
            np.array([self.settings.self_strength, self.settings.cross_strength], np.float32), (batch, 1)
        )
        injected = _Injection(masks=masks, strengths=strengths)
        output = self._predict(sample, timestep, label, step=step, injected=injected)
        if scale == 1:
            return output
        plain = self._predict(sample, timestep, repeat_texts(self.conditions.nothing, batch), step=step)
        return plain + np.float32(scale) * (output - plain)

    def _predict(
        self,
        sample: Floats,
        timestep: NDArray[np.int64],
        text: Text,
        *,
        step: str,
        injected: _Injection | None = None,
    ) -> Floats:
        """The UNet's output for a batch of any size."""
        feeds = self._feeds(sample, timestep, text, injected)
        most = max(1, MAX_PIXELS // (sample.shape[2] * sample.shape[3]))
        return np.concatenate([self._checked("unet", part, "out_sample", step) for part in cut_batch(feeds, most)])

    def _feeds(
        self, sample: Floats, timestep: NDArray[np.int64], text: Text, injected: _Injection | None = None
    ) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
        batch, (height, width) = len(sample), sample.shape[2:]
        masks = injected.masks if injected else np.zeros((batch, height, width), np.float32)
        return {
            "sample": sample.astype(np.float32, copy=False),
            "timestep": timestep,
            **text,
            "foreground": masks[:, None],
            "token_indicator": np.repeat(self.conditions.token_indicator, batch, 0),
            "strength": injected.strengths if injected else np.zeros((batch, 2), np.float32),
        }

    def _checked(self, component: str, feeds: Mapping[str, NDArray[np.generic]], output: str, step: str) -> Floats:
        return check_finite(self.engines[component](feeds, only=output)[output], component, step)
