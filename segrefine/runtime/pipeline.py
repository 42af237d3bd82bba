"""The whole of G4Seg on engines: a coarse mask in, a sharp mask out. Start reading here.

`Refiner.__call__` is the one refining operation that every surface calls. It decides which part of the image each mask
is refined in, refines the masks there, lets the guard judge the result, and puts the parts together.
`Refiner._refine` is the method itself (arXiv 2506.01539; `docs/method.md`). Encode the image and the labels. Ask how
well each label explains each pixel. Then, in rounds, generate the image under the mask, compare it with the original,
and move the mask where the two disagree. Finally move the border to the edges of the image.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from segrefine.bundle import Bundle
from segrefine.engines import Engine
from segrefine.runtime.crop import cut_mask, find_part, stitch
from segrefine.runtime.denoiser import Conditions, Denoiser, Observe, TextEvidence, encode_prompts
from segrefine.runtime.engine_set import EngineSet, Progress, Watch, check_finite, check_seed, text_encoders
from segrefine.runtime.evidence import doubt_sides
from segrefine.runtime.files.image import ImageLike, as_image
from segrefine.runtime.files.mask import CheckedMask, CoarseMask, MaskLike, check_masks, has_border, merge_alike
from segrefine.runtime.guard import Guard, guard_changes, read_guard
from segrefine.runtime.imaging.filters import pool
from segrefine.runtime.imaging.grid import FittedImage
from segrefine.runtime.masked_image import JointRound, MaskedImage
from segrefine.runtime.memory import BUDGET, Memory
from segrefine.runtime.refinement import Floats, Refinement, divide_pixels, label_map
from segrefine.runtime.scene import Scene
from segrefine.runtime.schedule import NoiseSchedule
from segrefine.runtime.words.prompt import build_prompt
from segrefine.runtime.worth import choose_nulls
from segrefine.settings import Changes, G4SegSettings
from segrefine.spec import MAX_PIXELS

if TYPE_CHECKING:
    from typing import Self

COMPONENTS = ("vae_encoder", "vae_decoder", "unet", "unet_features", "alignment")
Masks = Sequence[tuple[str, MaskLike | CoarseMask]] | Mapping[str, MaskLike | CoarseMask]
"""Labels, each with its coarse mask."""
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Call:
    """The options of one call, which every part of the image shares."""

    settings: G4SegSettings
    guard: bool
    seed: int
    progress: Progress | None
    observe: Observe | None


class Refiner(EngineSet[G4SegSettings]):
    """Refines coarse masks with the engines of one bundle; a context manager that closes them.

    Attributes:
        bundle: where the engines come from.
        settings: the method's numbers, for calls that give none.
        guard: what was fitted to the bundle's model; None: the free guard judges alone.
    """

    method = "g4seg"
    seldom = ("vae_decoder",)  # a look at what was generated

    def __init__(
        self,
        bundle: Bundle,
        engines: Mapping[str, Engine],
        *,
        settings: G4SegSettings | Changes | None = None,
        resolution: int | None = None,
    ) -> None:
        super().__init__(bundle, engines, resolution=resolution)
        self.settings = G4SegSettings.from_dict(bundle.manifest.settings).change(settings)
        self.guard = read_guard(bundle)
        self._schedule = NoiseSchedule.from_config(bundle.read_json("scheduler/scheduler_config.json"))
        self.check_settings(self.settings)

    def derive(
        self,
        engines: Mapping[str, Engine] | None = None,
        *,
        settings: G4SegSettings | Changes | None = None,
        resolution: int | None = None,
        guard: Guard | None = None,
    ) -> Self:
        """A second refiner on the same bundle, see `EngineSet.derive`; with another guard, where one is given."""
        derived = super().derive(engines, settings=settings, resolution=resolution)
        derived.guard = guard or self.guard
        return derived

    @classmethod
    def components(cls, bundle: Bundle) -> Sequence[str]:
        """Names of the components that refining needs."""
        return (*text_encoders(bundle), *COMPONENTS)

    @overload
    def __call__(
        self, image: ImageLike, masks: MaskLike | CoarseMask, label: str, *, crop: bool = True,
        guard: bool = True, settings: G4SegSettings | Changes | None = None, seed: int = 0,
        progress: Progress | None = None, observe: Observe | None = None,
    ) -> Refinement: ...  # fmt: skip

    @overload
    def __call__(
        self, image: ImageLike, masks: Masks, label: None = None, *, crop: bool = True,
        guard: bool = True, settings: G4SegSettings | Changes | None = None, seed: int = 0,
        progress: Progress | None = None, observe: Observe | None = None,
    ) -> tuple[Refinement, ...]: ...  # fmt: skip

    def __call__(
        self,
        image: ImageLike,
        masks: MaskLike | CoarseMask | Masks,
        label: str | None = None,
        *,
        crop: bool = True,
        guard: bool = True,
        settings: G4SegSettings | Changes | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        observe: Observe | None = None,
    ) -> Refinement | tuple[Refinement, ...]:
        """Refine one mask, or the masks of L labels jointly.

        Several labels compete for every pixel with each other and with the background. The image is encoded once, its
        features are computed once, and each step of the UNet is one batch over the labels. A label may come twice:
        instances of one class compete just the same. The same mask twice under one label is refined once.

        Args:
            image: a picture of any size, as `as_image` takes it: a path, a PIL image or an array (H, W, 3).
            masks: list of pairs (label, mask), or a dict of them. A mask is what `as_mask` takes: a path, a PIL image,
                or an array (H, W) of bool, of 0 and 255, or of foreground probabilities. It may also be a
                `CoarseMask`, which may change only in its confusion area; `coarse_from_marks` makes one of boxes and
                points. With `label`, the one mask that it names.
            label: what the one mask shows, such as "fox".
            crop: refine an object under 1 % of the image in a crop around it.
            guard: undo changes that cannot be trusted, and report a confidence; see `segrefine.runtime.guard`.
            settings: the method's numbers for this call; a dict changes some of `self.settings`, a text names a preset,
                such as "fast".  [default: `self.settings`]
            seed: random seed of the noise. One seed gives one mask on every backend, up to rounding.
            progress: called after every stage.
            observe: called with the latents of every step of generation.

        Returns:
            One `Refinement` for each label, in order; with `label`, that of the one mask. The masks are disjoint,
            except those that the guard left coarse, and the same mask under one label.

        Raises:
            ImageError: the image cannot be read.
            MaskError: there is no mask, a mask cannot be read, has another size than the image, or has nothing to
                refine. With several masks the message names the label.
            PromptError: a label is empty or too long.
            SettingsError: a setting or preset does not exist, a value is wrong, a noise level is outside the model's
                schedule, or the seed is below 0.
            NumericalError: an engine gave a value that is not finite.
        """
        check_seed(seed)
        changed = self.settings.change(settings)
        self.check_settings(changed)
        call = _Call(settings=changed, guard=guard, seed=seed, progress=progress, observe=observe)
        pixels = as_image(image)
        pairs: Any = masks if label is None else [(label, masks)]
        asked = check_masks(pairs, (pixels.shape[0], pixels.shape[1]))
        given, places = merge_alike(asked)
        parts = [find_part(each) if crop else None for each in given]
        whole = self._refine_part(pixels, given, call) if None in parts else ()
        results = []
        for number, (mask, part) in enumerate(zip(given, parts, strict=True)):
            if part is None:
                results.append(whole[number])
                continue
            rivals = [other for other in given if other is not mask and has_border(other.probability[part] > 0.5)]
            cuts = [cut_mask(each, part) for each in (mask, *rivals)]
            own, *_ = self._refine_part(np.ascontiguousarray(pixels[part]), cuts, call)
            results.append(stitch(own, mask.probability, part))
        shared = divide_pixels(results)
        divided = tuple(replace(shared[i], label=each.label) for i, each in zip(places, asked, strict=True))
        _log_results(divided)
        return divided if label is None else divided[0]

    def _refine_part(
        self, image: NDArray[np.uint8], masks: Sequence[CheckedMask], call: _Call
    ) -> tuple[Refinement, ...]:
        """Refine masks in an image that is whole or a crop, and undo what the guard does not trust."""
        results = self._refine(image, masks, call)
        if not call.guard:
            return results
        began = time.perf_counter()
        guarded = [guard_changes(image, each, self.guard) for each in results]
        spent = time.perf_counter() - began
        return tuple(replace(each, seconds={**each.seconds, "guard": spent}) for each in guarded)

    def _refine(self, image: NDArray[np.uint8], given: Sequence[CheckedMask], call: _Call) -> tuple[Refinement, ...]:
        """The method: refine checked masks (H, W) of L labels in an image (H, W, 3), step by step."""
        watch = Watch(call.progress, steps=4 + 2 * len(call.settings.timesteps))
        # P ← coarse mask on the latent grid; z0 ← VAE(I)
        scene = self._prepare(image, given, call)
        watch.step("encode")
        # e ← how much better the label explains each pixel; E ← e and the coarse mask together
        text = scene.denoiser.text_evidence(scene.latents, scene.start, scene.noise)
        evidence = scene.combine_evidence(text.maps)
        watch.step("text evidence")
        # P ← moved where the image generated under P disagrees with the original, from coarse to fine
        rounds = self._run_rounds(scene, text, evidence, watch)
        # mask ← the gained evidence at full size, its border moved to the image's edges
        worth = np.ones(len(given), np.float32) if text.worth is None else text.worth
        probabilities = scene.sharpen(rounds[-1].probability if rounds else scene.start, worth)
        watch.step("edges")
        numbers = label_map(probabilities)
        return tuple(
            Refinement(
                label=each.label,
                mask=numbers == i + 1,
                probability=probabilities[i],
                coarse=each.probability,
                fit=scene.fit,
                latents=scene.latents,
                text_evidence=text.maps[i],
                rounds=tuple(each_round.of_label(i) for each_round in rounds if worth[i] > 0),
                seconds=watch.seconds,
                evidence_worth=None if text.worth is None else float(text.worth[i]),
                confusion=each.confusion,
                edge_step=call.settings.edges,
            )
            for i, each in enumerate(given)
        )

    def _prepare(self, image: NDArray[np.uint8], given: Sequence[CheckedMask], call: _Call) -> MaskedImage:
        """Bring the image and the masks to the model's grid, and the image into its latent space."""
        s = call.settings
        labels = [each.label for each in given]
        nulls = choose_nulls(labels, s)
        fit = self.fit(image)
        cell = self.bundle.manifest.vae_scale_factor
        start = np.stack([pool(fit.apply(each.probability), cell) for each in given])
        changeable = np.stack([_on_grid(each.confusion, fit, cell) for each in given])
        denoiser = Denoiser(
            engines=self.engines,
            schedule=self._schedule,
            settings=s,
            conditions=self._encode_labels([*labels, *nulls], fit.grid, s),
            nulls=range(len(labels), len(labels) + len(nulls)),
            observe=call.observe,
        )
        latents = self.encode_image(fit.image)
        noise = np.random.default_rng(call.seed).standard_normal((s.noises, *latents.shape[1:]), np.float32)
        return MaskedImage(
            image=image, masks=given, settings=s, fit=fit, start=start, changeable=changeable, latents=latents,
            noise=noise, denoiser=denoiser,
        )  # fmt: skip

    def _run_rounds(self, scene: MaskedImage, text: TextEvidence, evidence: Floats, watch: Watch) -> list[JointRound]:
        """Generate under the mask, compare with the original, and move the mask where the two disagree.

        If the model knows none of the labels, no pass is computed.
        """
        s, z0, noise, denoiser = scene.settings, scene.latents, scene.noise, scene.denoiser
        knows = text.worth is None or bool(text.worth.any())
        # F_o ← features of z0
        original = denoiser.features(z0, noise, scene.prompt) if knows and s.comparison == "original" else None
        watch.step("features")
        probability = scene.start
        rounds: list[JointRound] = []
        for t, width in zip(s.timesteps, s.confusion, strict=True) if knows else ():
            # ẑ0 ← generate under P, from noise level t
            generated = denoiser.generate(z0, probability, t, noise)
            unmasked = generated if original is not None else denoiser.generate(z0, probability, t, noise, masked=False)
            watch.step("generate")
            discrepancy = np.empty_like(probability)
            updated = np.empty_like(probability)
            for part in _parts_of(probability):  # features are large: those of hundreds of labels take gigabytes
                # F_g ← features of ẑ0
                features = denoiser.features(generated[part], noise, scene.prompt)
                compared = original if original is not None else denoiser.features(unmasked[part], noise, scene.prompt)
                # h ← Hausdorff discrepancy; P̂ ← σ((d_bg − d_fg) / T + E); P ← (1 − β) P + β P̂
                given = compared, features, probability[part]
                discrepancy[part], updated[part] = self._align(*given, evidence[part], width, s)
                if s.discrepancy_weight:  # known only now: update once more, with h among the evidence
                    doubt = doubt_sides(discrepancy[part], probability[part], s.discrepancy_weight)
                    _, updated[part] = self._align(*given, evidence[part] + doubt, width, s)
            # only in the confusion area
            probability = np.where(scene.changeable, updated, probability)
            watch.step("align")
            rounds.append(JointRound(timestep=t, generated=generated, discrepancy=discrepancy, probability=probability))
        return rounds

    def open(self, image: ImageLike, *, memory: int = BUDGET) -> Scene:
        """An image to refine many masks in: what does not depend on a mask is computed once.

            with refiner.open("photo.jpg") as scene:
                first = scene("mask.png", "fox")
                second = scene(other_mask, "fox")

        Args:
            image: a picture of any size, as `as_image` takes it.
            memory: bytes that the scene may keep.

        Raises:
            ImageError: the image cannot be read.
            SettingsError: the memory is negative.
        """
        pixels = as_image(image).copy()  # the caller may draw on the image while the scene remembers it
        return Scene(self, pixels, Memory(memory))

    def decode(self, latents: Floats) -> NDArray[np.uint8]:
        """The picture of latents (1, c, h, w), uint8 (h·f, w·f, 3); for looking at a round's `generated`."""
        return np.asarray(
            np.round((self.decode_image(latents)[0].transpose(1, 2, 0).clip(-1, 1) + 1) * 127.5), np.uint8
        )

    def check_settings(self, settings: G4SegSettings) -> None:
        """Check that the noise levels of settings are those of the model's schedule.

        Raises:
            SettingsError: one is outside of it.
        """
        levels = (*settings.timesteps, *settings.text_timesteps, settings.feature_timestep)
        self._schedule.check_timesteps(levels)

    def _encode_labels(self, labels: Sequence[str], size: tuple[int, int], settings: G4SegSettings) -> Conditions:
        prompts = [build_prompt(self.tokenizer, label, template=settings.template) for label in labels]
        return encode_prompts(self, prompts, size)

    def _align(
        self,
        original: Floats,
        generated: Floats,
        probability: Floats,
        evidence: Floats,
        width: float,
        settings: G4SegSettings,
    ) -> tuple[Floats, Floats]:
        """Compare features (L, N, C); discrepancy and new probability, float32 (L, h, w), of each label.

        The graph was exported from `segrefine/reference/alignment.py`, which has the formulas.
        """
        s = settings
        count = len(generated)
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


def _log_results(results: Sequence[Refinement]) -> None:
    """Log what became of each mask. Labels are left out: they belong to whoever asked."""
    for number, each in enumerate(results, 1):
        height, width = each.mask.shape
        _LOGGER.info(
            "mask %d of %d, %d×%d: crop %s, evidence worth %s, confidence %s, %.0f %% of the change undone",
            number, len(results), width, height, each.crop, each.evidence_worth, each.confidence, 100 * each.kept_share,
        )  # fmt: skip


def _on_grid(in_doubt: NDArray[np.bool_] | None, fit: FittedImage, cell: int) -> NDArray[np.bool_]:
    """The latent pixels, bool (h, w), that hold something of a confusion area, bool (H, W); None for all."""
    everywhere = np.ones((fit.grid[0] // cell, fit.grid[1] // cell), np.bool_)
    return everywhere if in_doubt is None else pool(fit.apply(in_doubt.astype(np.float32)), cell) > 0


def _parts_of(maps: Floats) -> list[slice]:
    """Parts of L maps (L, h, w), of as many as a batch of the engines takes."""
    most = max(1, MAX_PIXELS // maps[0].size)
    return [slice(first, first + most) for first in range(0, len(maps), most)]
