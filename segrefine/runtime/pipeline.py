"""The whole of G4Seg on engines: a coarse mask in, a sharp mask out. Start reading here.

`Refiner.__call__` is the method (arXiv 2506.01539; `docs/method.md`): encode the image and the label; ask how well the
label explains each pixel; then, in rounds, generate the image under the mask, compare it with the original, and move
the mask where the two disagree; at last let the border follow the image's edges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from segrefine.bundle import Bundle
from segrefine.engines import Engine
from segrefine.runtime.denoiser import NOTHING, Conditions, Denoiser, Observe
from segrefine.runtime.edges import EdgeSettings, logit, sharpen
from segrefine.runtime.engine_set import EngineSet, Progress, Watch, check_finite, text_encoders
from segrefine.runtime.evidence import against_others, gather_evidence
from segrefine.runtime.filters import pool
from segrefine.runtime.grid import FittedImage
from segrefine.runtime.image import check_image
from segrefine.runtime.mask import CoarseMask, check_masks
from segrefine.runtime.prompt import build_prompt
from segrefine.runtime.schedule import NoiseSchedule
from segrefine.settings import G4SegSettings
from segrefine.spec import MAX_PIXELS

Floats = NDArray[np.float32]
COMPONENTS = ("vae_encoder", "vae_decoder", "unet", "unet_features", "alignment")


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round of refinement computed, on the latent grid (h, w).

    Attributes:
        timestep: noise level of the generation.
        generated: float32 (1, c, h, w) latents of the mask-conditional image.
        discrepancy: float32 (h, w); how much each pixel disagrees with the generation.
        probability: float32 (h, w) foreground probability after the round, in [0, 1].
    """

    timestep: int
    generated: Floats
    discrepancy: Floats
    probability: Floats

    @classmethod
    def of_label(cls, number: int, timestep: int, generated: Floats, discrepancy: Floats, probability: Floats) -> Self:
        """One label's part of a round of several, whose arrays have the labels as their first axis."""
        return cls(
            timestep=timestep,
            generated=generated[number : number + 1],
            discrepancy=discrepancy[number],
            probability=probability[number],
        )


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """A refined mask.

    Attributes:
        mask: bool (H, W), at the image's size.
        probability: float32 (H, W) foreground probability in [0, 1], after the edge step (ours).
        coarse: float32 (H, W), the mask that was refined.
        fit: the image on the model's grid; of a crop that of the crop.
        latents: float32 (1, c, h, w) of the image.
        text_evidence: float32 (h, w); how much better the label explains each pixel than no label does.
        rounds: the trace.
        seconds: time of each stage.
        confidence: of the mask, in [0, 1], where a guard looked at it; see `segrefine.runtime.guard`.
        pixel_confidence: float16 (H, W) in [0, 1], of each pixel, likewise.
        kept_coarse: the guard trusted nothing that refining changed, and this is the coarse mask, all of it: of several
            labels it may overlap others.
        kept_share: of the pixels that refining changed, the share that the guard put back; 0 where none looked at it,
            1 where `kept_coarse`.
        part: rows and columns of the crop that was refined, and that latents, evidence and rounds are of; None for the
            whole image. See `segrefine.runtime.crop`.
    """

    mask: NDArray[np.bool_]
    probability: Floats
    coarse: Floats = field(repr=False)
    fit: FittedImage = field(repr=False)
    latents: Floats
    text_evidence: Floats
    rounds: tuple[Round, ...]
    seconds: Mapping[str, float] = field(repr=False)
    confidence: float | None = None
    pixel_confidence: NDArray[np.float16] | None = field(default=None, repr=False)
    kept_coarse: bool = False
    kept_share: float = 0.0
    part: tuple[slice, slice] | None = None

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The edges of `part` in pixels: left, top, right, bottom."""
        if self.part is None:
            return None
        rows, columns = self.part
        return columns.start, rows.start, columns.stop, rows.stop

    @property
    def distrust(self) -> str | None:
        """A sentence that tells that the guard gave the coarse mask back; None where it did not."""
        if not self.kept_coarse:
            return None
        return f"the guard does not trust the refined mask (confidence {self.confidence:.2f}): it is the coarse one"

    @property
    def paper_probability(self) -> Floats:
        """Float32 (H, W), before the edge step (the paper's result): resized from the latent grid when asked for."""
        found = self.fit.restore(self.rounds[-1].probability)
        if self.part is None:
            return found
        whole = self.coarse.copy()
        whole[self.part] = found
        return whole


class Refiner(EngineSet[G4SegSettings]):
    """Refines coarse masks with the engines of one bundle; a context manager that closes them.

    Attributes:
        bundle: where the engines come from.
        settings: the method's numbers.
        edges: the edge step's numbers.
    """

    method = "g4seg"

    def __init__(
        self,
        bundle: Bundle,
        engines: Mapping[str, Engine],
        *,
        settings: G4SegSettings | None = None,
        edges: EdgeSettings | None = None,
    ) -> None:
        super().__init__(bundle, engines)
        self.settings = s = settings or G4SegSettings.from_dict(bundle.manifest.settings)
        self.edges = edges or EdgeSettings()
        self._schedule = NoiseSchedule.from_config(bundle.read_json("scheduler/scheduler_config.json"))
        self._schedule.check_timesteps((*s.timesteps, *s.text_timesteps, s.feature_timestep))

    @classmethod
    def components(cls, bundle: Bundle) -> Sequence[str]:
        """The components that refining takes."""
        return (*text_encoders(bundle), *COMPONENTS)

    def __call__(
        self,
        image: NDArray[np.uint8],
        mask: Floats | CoarseMask,
        label: str,
        *,
        seed: int = 0,
        progress: Progress | None = None,
        observe: Observe | None = None,
    ) -> Refinement:
        """The refined mask of one label.

        Args:
            image: uint8 (H, W, 3) RGB, any size.
            mask: float (H, W) coarse foreground probability in [0, 1], at the image's size; or one that is in doubt
                only in parts, such as `coarse_from_marks` makes of boxes and points.
            label: what the mask shows, such as "fox".
            seed: of the noise; the same seed gives the same mask on every backend, up to rounding.
            progress: told of every stage.
            observe: told of the latents of every step of generation.

        Raises:
            ImageError: the image is no uint8 array (H, W, 3).
            MaskError: no floating-point array, another size than the image, or nothing to refine.
            PromptError: the label is empty or too long.
            NumericalError: an engine gave a value that is not finite.
        """
        return self.refine_labels(image, [(label, mask)], seed=seed, progress=progress, observe=observe)[0]

    def refine_labels(
        self,
        image: NDArray[np.uint8],
        masks: Sequence[tuple[str, Floats | CoarseMask]],
        *,
        seed: int = 0,
        progress: Progress | None = None,
        observe: Observe | None = None,
    ) -> tuple[Refinement, ...]:
        """The refined masks of L labels, which compete for every pixel with each other and with the background.

        The image is encoded once, its features are taken once, and each step of the UNet is one batch over the labels.
        A label may come twice: instances of one class compete just the same. The masks of the result are disjoint.

        Args:
            image: uint8 (H, W, 3) RGB, any size.
            masks: labels with their coarse masks, as for one label; the masks may overlap.
            seed: of the noise.
            progress: told of every stage.
            observe: told of the latents of every step of generation.

        Raises:
            MaskError: there is no mask.
            SegrefineError: see `__call__`; of several masks the message names the label.
        """
        s, watch = self.settings, Watch(progress, steps=4 + 2 * len(self.settings.timesteps))
        check_image(image)
        given = check_masks(masks, (image.shape[0], image.shape[1]))
        labels, fit, cell = [label for label, _ in masks], self.fit(image), self.bundle.manifest.vae_scale_factor
        start = probability = np.stack([pool(fit.apply(coarse), cell) for coarse, _ in given])
        changeable = np.stack([_on_grid(in_doubt, fit, cell) for _, in_doubt in given])
        denoiser = Denoiser(
            engines=self.engines,
            schedule=self._schedule,
            settings=s,
            conditions=self._encode_labels(labels, fit.grid),
            observe=observe,
        )
        prompt = 0 if len(masks) == 1 else NOTHING  # several labels share the features of the image
        z0 = self.encode_image(fit.image)
        noise = np.random.default_rng(seed).standard_normal((s.noises, *z0.shape[1:]), np.float32)
        watch.step("encode")
        text = denoiser.text_evidence(z0, start, noise)
        telling = against_others(text, labels, s.text_rivalry)
        evidence = np.stack([gather_evidence(fit.image, *each, s) for each in zip(start, telling, strict=True)])
        watch.step("text evidence")
        original = denoiser.features(z0, noise, prompt)
        watch.step("features")
        rounds = []
        for t, width in zip(s.timesteps, s.confusion, strict=True):
            generated = denoiser.generate(z0, probability, t, noise)
            watch.step("generate")
            discrepancy, updated = np.empty_like(probability), np.empty_like(probability)
            for part in _parts_of(probability):  # features are large: those of hundreds of labels take gigabytes
                features = denoiser.features(generated[part], noise, prompt)
                discrepancy[part], updated[part] = self._align(
                    original, features, probability[part], evidence[part], width
                )
            probability = np.where(changeable, updated, probability)
            watch.step("align")
            rounds.append((t, generated, discrepancy, probability))
        gain, sharp = logit(probability) - logit(start), []
        for (coarse, in_doubt), gained in zip(given, gain, strict=True):
            found = sharpen(image, coarse, fit.restore(gained), self.edges)
            sharp.append(found if in_doubt is None else np.where(in_doubt, found, coarse))
        watch.step("edges")
        numbers = label_map(sharp)
        return tuple(
            Refinement(
                mask=numbers == i + 1,
                probability=sharp[i],
                coarse=given[i][0],
                fit=fit,
                latents=z0,
                text_evidence=text[i],
                rounds=tuple(Round.of_label(i, *each) for each in rounds),
                seconds=watch.seconds,
            )
            for i in range(len(labels))
        )

    def decode(self, latents: Floats) -> NDArray[np.uint8]:
        """The picture of latents (1, c, h, w), uint8 (h·f, w·f, 3); for looking at a round's `generated`."""
        return np.asarray(
            np.round((self.decode_image(latents)[0].transpose(1, 2, 0).clip(-1, 1) + 1) * 127.5), np.uint8
        )

    def _encode_labels(self, labels: Sequence[str], size: tuple[int, int]) -> Conditions:
        prompts = [build_prompt(self.tokenizer, label, template=self.settings.template) for label in labels]
        ids = np.concatenate([*(prompt.input_ids for prompt in prompts), self.tokenizer("")])
        indicators = [prompt.token_indicator for prompt in prompts]
        indicators.append(np.zeros_like(indicators[0]))
        return Conditions(texts=self.encode_text(ids, size), token_indicator=np.concatenate(indicators))

    def _align(
        self, original: Floats, generated: Floats, probability: Floats, evidence: Floats, width: float
    ) -> tuple[Floats, Floats]:
        """Discrepancy and new probability, float32 (L, h, w), of each label's image by its features (L, N, C)."""
        s, count = self.settings, len(generated)
        feeds = {
            "features_original": original if count == len(original) else np.repeat(original, count, 0),
            "features_generated": generated,
            "foreground": probability[:, None],
            "evidence": evidence[:, None].astype(np.float32),
            "parameters": np.array([[s.temperature, s.mixing, width, s.position_weight]] * count, np.float32),
        }
        found = self.engines["alignment"](feeds)
        discrepancy, updated = (
            check_finite(found[name], "alignment", name)[:, 0] for name in ("discrepancy", "probability")
        )
        return discrepancy, updated


def _on_grid(in_doubt: NDArray[np.bool_] | None, fit: FittedImage, cell: int) -> NDArray[np.bool_]:
    """The latent pixels, bool (h, w), that hold something of a confusion area, bool (H, W); None for all."""
    everywhere = np.ones((fit.grid[0] // cell, fit.grid[1] // cell), np.bool_)
    return everywhere if in_doubt is None else pool(fit.apply(in_doubt.astype(np.float32)), cell) > 0


def _parts_of(maps: Floats) -> list[slice]:
    """Parts of L maps (L, h, w), of as many as a batch of the engines takes."""
    most = max(1, MAX_PIXELS // maps[0].size)
    return [slice(first, first + most) for first in range(0, len(maps), most)]


def label_map(probability: Iterable[Floats]) -> NDArray[np.uint16]:
    """The number of each pixel's most probable label, from 1, or 0 where none passes one half, uint16 (H, W).

    Args:
        probability: float32 (H, W), of each of L labels against all else; of equals the first wins.
    """
    numbers, best = np.zeros(0, np.uint16), np.zeros(0, np.float32)
    for number, each in enumerate(probability, 1):
        if number == 1:
            numbers, best = np.zeros(each.shape, np.uint16), np.full(each.shape, 0.5, np.float32)
        better = each > best
        np.copyto(numbers, np.uint16(number), where=better)
        np.copyto(best, each, where=better)
    return numbers
