"""The diffusion model under a prompt and a mask: what the pipeline asks of the UNet, in few engine calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.engines import Engine, cut_batch
from segrefine.runtime.engine_set import EngineSet, check_finite
from segrefine.runtime.sampler import invert_ddim, sample_ddim
from segrefine.runtime.schedule import NoiseSchedule
from segrefine.runtime.words.context import reorder_states
from segrefine.runtime.words.prompt import Prompt
from segrefine.runtime.words.text import Text, pick_texts
from segrefine.runtime.worth import WordEffect, measure_worth
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
    """Inputs of the UNet besides the sample: P prompts, numbered from 0, and `NOTHING`.

    Attributes:
        texts: P + 1 of them: the prompts that name the labels and the null words, and the empty prompt.
        token_indicator: float32 (P + 1, tokens, 2), see `Prompt`; zeros for the empty prompt.
    """

    texts: Text
    token_indicator: Floats


NOTHING = -1
"""The number of the empty prompt."""


def encode_prompts(pipeline: EngineSet[Any], prompts: Sequence[Prompt], size: tuple[int, int]) -> Conditions:
    """The conditions of prompts, with the empty one at the end, by one call of the text encoder.

    Args:
        pipeline: has the text encoder.
        prompts: one or more.
        size: (height, width) of the image on the model's grid, in pixels.
    """
    ids = np.concatenate([*(prompt.input_ids for prompt in prompts), pipeline.tokenizer("")])
    indicators = [prompt.token_indicator for prompt in prompts]
    indicators.append(np.zeros_like(indicators[0]))
    texts = reorder_states(pipeline.encode_text(ids, size), [*(prompt.order for prompt in prompts), None])
    return Conditions(texts=texts, token_indicator=np.concatenate(indicators))


@dataclass(frozen=True, kw_only=True)
class _Injection:
    """Masks (B, h, w), and the strengths (B, 2) of self- and cross-attention with which they are injected."""

    masks: Floats
    strengths: Floats


@dataclass(frozen=True, kw_only=True)
class TextEvidence:
    """Evidence of the text: how much better each of L labels explains each pixel than no label does.

    Attributes:
        maps: float32 (L, h, w); zeros for a label whose evidence is worth nothing.
        worth: float32 (L,) in [0, 1]; None where it was not measured. See `segrefine.runtime.worth`.
    """

    maps: Floats
    worth: Floats | None


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """A UNet, its noise schedule, and the conditions of one image.

    Attributes:
        engines: `unet` and `unet_features` are used.
        schedule: the noise levels.
        settings: the method's numbers.
        conditions: the prompts.
        nulls: numbers of the prompts that name null words; none: the worth of evidence is not measured.
        observe: told of every step of generation.
    """

    engines: Mapping[str, Engine]
    schedule: NoiseSchedule
    settings: G4SegSettings
    conditions: Conditions
    nulls: Sequence[int] = ()
    observe: Observe | None = None

    def text_evidence(self, z0: Floats, masks: Floats, noise: Floats) -> TextEvidence:
        """Compute how much better each of L labels explains each pixel than no label does, and the worth of that.

        The squared error that the label takes away, and how much it changes the prediction at all (as in DiffEdit,
        arXiv 2210.11427), in units of v-prediction, which weighs noise levels alike. The mean over noise levels, each
        with one of the noises, and over the strengths with which the coarse masks hand their labels to their pixels.

        Some levels are tried first, with the labels and with the null words, without the masks. Labels that turn out
        to be worth nothing are not asked again.

        Args:
            z0: float32 (1, c, h, w) latents of the image.
            masks: float32 (L, h, w) coarse masks.
            noise: float32 (K, c, h, w).
        """
        s, count = self.settings, len(masks)
        strengths = s.text_strengths if count == 1 else s.joint_strengths
        trial = _TextTrial(denoiser=self, z0=z0, masks=masks, noise=noise)
        worth: Floats | None = None
        if self.nulls:
            of_labels = trial.compare(range(count), s.probe_levels, 0.0)
            of_nulls = trial.compare(self.nulls, s.probe_levels, 0.0)
            found = [measure_worth(of_labels.pick(i), of_nulls, masks[i], s) for i in range(count)]
            worth = np.array(found, np.float32)
        asked = [i for i in range(count) if worth is None or worth[i] > 0]
        evidence = np.zeros_like(masks)
        if asked and s.asks_text:
            levels = range(len(s.text_timesteps))
            evidence[asked] = np.mean([trial.compare(asked, levels, each).evidence for each in strengths], 0)
        return TextEvidence(maps=evidence, worth=worth)

    def word_effects(self, z0: Floats, noise: Floats, prompts: Sequence[int]) -> WordEffect:
        """Compute the effect of each of P prompts on the prediction of the clean latents, means over the text's levels.

        Args:
            z0: float32 (1, c, h, w) latents of the image.
            noise: float32 (K, c, h, w); each level takes one of them.
            prompts: numbers of the prompts.
        """
        nowhere = np.zeros((1, *z0.shape[2:]), np.float32)
        trial = _TextTrial(denoiser=self, z0=z0, masks=nowhere, noise=noise)
        return trial.compare(prompts, range(len(self.settings.text_timesteps)), 0.0)

    def attention(self, z0: Floats, noise: Floats, prompts: Sequence[int], t: int) -> tuple[Floats, Floats]:
        """Return the UNet's attention at noise level t, on the grid of its maps.

        Args:
            z0: float32 (1, c, h, w) latents of the image.
            noise: float32 (K, c, h, w), of which the first is taken.
            prompts: numbers of P prompts.
            t: timestep.

        Returns:
            words: float32 (P, rows, columns), the share of a place's attention that the label's tokens get.
            places: float32 (N, N), how much each place attends to each, the mean over the prompts; rows sum to 1.
        """
        count = len(prompts)
        sample = np.repeat(self.schedule.add_noise(z0, noise[:1], t), count, 0)
        feeds = self._feeds(sample, np.full(count, t, np.int64), np.array(prompts, np.intp))
        words, places = [], np.float32(0)
        for part in cut_batch(feeds, _most_samples(feeds)):
            found = self.engines["unet_attention"](part)
            words.append(check_finite(found["word_attention"], "unet_attention", f"t={t}"))
            places = places + check_finite(found["self_attention"], "unet_attention", f"t={t}").sum(0) / count
        return np.concatenate(words), np.asarray(places, np.float32)

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
        masks = np.zeros((batch, height, width), np.float32)
        if injected:  # a mask of no strength is no mask: what it predicts may be known already
            strong = injected.strengths.any(axis=1)
            masks[strong] = injected.masks[strong]
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
        parts = [self.engines[component](part, only=output)[output] for part in cut_batch(feeds, _most_samples(feeds))]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)  # the very array: a GPU may still have it
        return check_finite(whole, component, step)


def _most_samples(feeds: Mapping[str, NDArray[Any]]) -> int:
    """Most samples that the UNet takes at once."""
    pixels: int = feeds["sample"][0, 0].size
    return max(1, MAX_PIXELS // pixels)


@dataclass(frozen=True, kw_only=True)
class _TextTrial:
    """One image, noised to the levels of the text, predicted with and without words. Nothing is predicted twice."""

    denoiser: Denoiser
    z0: Floats
    masks: Floats
    noise: Floats
    _known: dict[tuple[int, int, float], Floats] = field(default_factory=dict)

    def compare(self, prompts: Sequence[int], levels: Sequence[int], strength: float) -> WordEffect:
        """Compute the effect of each of P prompts on the prediction, means over levels; see `text_evidence`."""
        wanted = [(NOTHING, level, 0.0) for level in levels]
        wanted += [(prompt, level, strength) for prompt in prompts for level in levels]
        self._predict([key for key in wanted if key not in self._known])
        s, schedule = self.denoiser.settings, self.denoiser.schedule
        shares = [1 - schedule.alphas_cumprod[s.text_timesteps[level]] for level in levels]
        plain = np.stack([self._known[NOTHING, level, 0.0] for level in levels])
        named = np.stack([[self._known[prompt, level, strength] for level in levels] for prompt in prompts])

        def mean_square(difference: Floats) -> Floats:
            weighed = np.square(difference).mean(-3) / np.array(shares, np.float32)[:, None, None]
            return np.asarray(weighed.mean(-3), np.float32)

        error, change = mean_square(plain - self.z0), mean_square(named - plain)
        evidence = error - mean_square(named - self.z0) + np.float32(s.text_effect) * change
        shift = (named - plain) / np.sqrt(np.array(shares, np.float32))[:, None, None, None]
        return WordEffect(evidence=evidence, shift=np.asarray(shift, np.float32), error=error)

    def _predict(self, keys: Sequence[tuple[int, int, float]]) -> None:
        """Predict the clean latents (c, h, w) of each prompt, level and strength, as one batch."""
        if not keys:
            return
        denoiser = self.denoiser
        prompts = np.array([prompt for prompt, _, _ in keys], np.intp)
        levels = np.array([level for _, level, _ in keys], np.intp)
        timesteps = np.array(denoiser.settings.text_timesteps, np.int64)[levels]
        samples = denoiser.schedule.add_noise(
            np.repeat(self.z0, len(keys), 0), self.noise[levels % len(self.noise)], timesteps
        )
        strengths = np.array([[0.0, strength] for _, _, strength in keys], np.float32)
        injected = _Injection(masks=self.masks[prompts.clip(0) % len(self.masks)], strengths=strengths)
        outputs = denoiser._predict(samples, timesteps, prompts, step="text evidence", injected=injected)
        self._known.update(zip(keys, denoiser.schedule.predict_clean(outputs, samples, timesteps), strict=True))
