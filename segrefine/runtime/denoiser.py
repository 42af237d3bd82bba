"""The diffusion model under a prompt and a mask: what the pipeline asks of the UNet, in few engine calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segrefine.engines import Engine
from segrefine.errors import NumericalError
from segrefine.runtime.filters import gaussian_blur
from segrefine.runtime.sampler import invert_ddim, sample_ddim
from segrefine.runtime.schedule import NoiseSchedule
from segrefine.settings import G4SegSettings

Floats = NDArray[np.float32]
Observe = Callable[[str, int, Floats], None]
"""Called with the stage, the timestep and the latents (B, c, h, w) that each step of generation gave."""

MAX_BATCH = 16
"""Samples in one UNet call: enough to fill the cores, few enough for the memory of a large model."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the UNet is told besides the sample.

    Attributes:
        label: float32 (1, tokens, hidden) states of the prompt that names the label.
        nothing: float32 (1, tokens, hidden) states of the empty prompt.
        token_indicator: float32 (1, tokens, 2), see `Prompt`.
    """

    label: Floats
    nothing: Floats
    token_indicator: Floats


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

    def text_evidence(self, z0: Floats, noise: Floats) -> Floats:
        """How much less error denoising makes with the label than without, per pixel (h, w), blurred."""
        levels = self.settings.text_timesteps
        noisy = np.concatenate([self.schedule.add_noise(z0, noise, t) for t in levels])
        timestep = np.repeat(np.array(levels, np.int64), len(noise))
        outputs = self._predict(
            np.concatenate([noisy, noisy]),
            np.concatenate([timestep, timestep]),
            np.repeat(np.concatenate([self.conditions.label, self.conditions.nothing]), len(noisy), 0),
            step="text evidence",
        )
        with_label, without = (self._velocity_error(output, noisy, z0, timestep) for output in np.split(outputs, 2))
        return gaussian_blur(without - with_label, self.settings.blur)

    def generate(self, z0: Floats, probability: Floats, t: int, noise: Floats) -> tuple[Floats, Floats]:
        """Latents (1, c, h, w) of the mask-conditional image, and the contrast (h, w) with its opposite.

        The contrast is the error of generation under 1 − P less the error under P, blurred: positive where the mask
        explains the image.
        """
        masks = np.stack([probability, 1 - probability]).astype(np.float32)
        if self.settings.mode == "one-step":
            noisy = self.schedule.add_noise(z0, noise, t)
            sample, masks = np.concatenate([noisy, noisy]), np.repeat(masks, len(noisy), 0)
            clean = self.schedule.predict_clean(self._predict_masked(sample, t, masks, f"t={t}"), sample, t)
            self._tell("one-step", t, clean)
        else:
            clean = self._generate_by_loop(z0, masks, t)
        error = np.square(clean - z0).mean(1) / (1 - self.schedule.alphas_cumprod[t])
        under_mask, under_opposite = (half.mean(0, dtype=np.float32) for half in np.split(error, 2))
        generated = np.split(clean, 2)[0].mean(0, keepdims=True)
        return generated, gaussian_blur(under_opposite - under_mask, self.settings.blur)

    def features(self, latents: Floats, noise: Floats) -> Floats:
        """Descriptors (1, N, C) of the pixels of `latents` (1, c, h, w), slightly noised, without a mask."""
        t = self.settings.feature_timestep
        sample = self.schedule.add_noise(latents, noise[:1], t)
        feeds = self._feeds(sample, np.full(1, t, np.int64), self.conditions.label)
        return self._checked("unet_features", feeds, "features", f"t={t}")

    def _generate_by_loop(self, z0: Floats, masks: Floats, t: int) -> Floats:
        """Clean latents (2, c, h, w) under the two masks: inverted to level t without a mask, sampled back with it."""
        steps, label = self.settings.loop_steps, self.conditions.label

        def plain(sample: Floats, timestep: int) -> Floats:
            return self._predict(sample, np.full(1, timestep, np.int64), label, step=f"inversion, t={timestep}")

        def masked(sample: Floats, timestep: int) -> Floats:
            return self._predict_masked(sample, timestep, masks, f"sampling, t={timestep}")

        def watch(stage: str) -> Callable[[int, int, Floats], None]:
            return lambda _, timestep, latents: self._tell(stage, timestep, latents)

        start = invert_ddim(plain, z0, self.schedule, steps, end=t, callback=watch("inversion"))
        both = np.concatenate([start, start])
        return sample_ddim(masked, both, self.schedule, steps, start=t, callback=watch("sampling"))

    def _tell(self, stage: str, timestep: int, latents: Floats) -> None:
        if self.observe:
            self.observe(stage, timestep, latents)

    def _predict_masked(self, sample: Floats, t: int, masks: Floats, step: str) -> Floats:
        """The UNet's output with masks (B, h, w) injected, guided."""
        batch, scale = len(sample), self.settings.guidance_scale
        timestep, label = np.full(batch, t, np.int64), np.repeat(self.conditions.label, batch, 0)
        output = self._predict(sample, timestep, label, step=step, masks=masks)
        if scale == 1:
            return output
        plain = self._predict(sample, timestep, np.repeat(self.conditions.nothing, batch, 0), step=step)
        return plain + np.float32(scale) * (output - plain)

    def _predict(
        self, sample: Floats, timestep: NDArray[np.int64], states: Floats, *, step: str, masks: Floats | None = None
    ) -> Floats:
        """The UNet's output for a batch of any size."""
        outputs = []
        for first in range(0, len(sample), MAX_BATCH):
            part = slice(first, first + MAX_BATCH)
            feeds = self._feeds(sample[part], timestep[part], states[part], None if masks is None else masks[part])
            outputs.append(self._checked("unet", feeds, "out_sample", step))
        return np.concatenate(outputs)

    def _feeds(
        self, sample: Floats, timestep: NDArray[np.int64], states: Floats, masks: Floats | None = None
    ) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
        batch, (height, width) = len(sample), sample.shape[2:]
        strength = (0.0, 0.0) if masks is None else (self.settings.self_strength, self.settings.cross_strength)
        foreground = np.zeros((batch, height, width), np.float32) if masks is None else masks
        return {
            "sample": sample.astype(np.float32, copy=False),
            "timestep": timestep,
            "encoder_hidden_states": states,
            "foreground": foreground[:, None],
            "token_indicator": np.repeat(self.conditions.token_indicator, batch, 0),
            "strength": np.tile(np.array(strength, np.float32), (batch, 1)),
        }

    def _checked(self, component: str, feeds: Mapping[str, NDArray[np.generic]], output: str, step: str) -> Floats:
        return check_finite(self.engines[component](feeds)[output], component, step)

    def _velocity_error(self, output: Floats, sample: Floats, z0: Floats, timestep: NDArray[np.int64]) -> Floats:
        """Squared error of the clean latents, as for v-prediction; mean over the batch and the channels, (h, w)."""
        clean = self.schedule.predict_clean(output, sample, timestep)
        error = np.square(clean - z0).mean(1)
        noise_share = (1 - self.schedule.alphas_cumprod[timestep])[:, None, None]
        return np.asarray((error / noise_share).mean(0), np.float32)


def check_finite(values: Floats, component: str, step: str) -> Floats:
    """`values`, once all of them are finite.

    Raises:
        NumericalError: names the component and the step.
    """
    if not np.isfinite(values).all():
        hint = "half precision overflows in some models: use a bundle exported with --dtype fp32"
        raise NumericalError(f"{component} gave a value that is not finite ({step})", hint=hint)
    return values
