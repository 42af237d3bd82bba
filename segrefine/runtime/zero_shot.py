"""Zero-shot segmentation: phrases in, masks out, by a text-to-image model that was never trained for masks.

`ZeroShotSegmenter.__call__` is the method (`docs/zero_shot.md`): encode the image and the phrases; see how each phrase
changes what the UNet predicts, and where it looks; read masks from both. G4Seg takes the masks from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.bundle import Bundle
from segrefine.engines import Engine, EngineOptions, choose_backend, load_engines
from segrefine.errors import BundleError, PromptError
from segrefine.runtime.denoiser import NOTHING, Conditions, Denoiser, encode_prompts
from segrefine.runtime.engine_set import EngineSet, Progress, Watch, check_seed, text_encoders
from segrefine.runtime.files.image import ImageLike, as_image
from segrefine.runtime.imaging.grid import FittedImage
from segrefine.runtime.schedule import NoiseSchedule
from segrefine.runtime.segmentation import Segment, Segmentation, guide_edges, read_samples
from segrefine.runtime.segmenter import check_phrases, quote_phrase
from segrefine.runtime.word_maps import Seen, WordMap, read_word_maps
from segrefine.runtime.words.context import CaptionedPhrase, read_in_context
from segrefine.runtime.words.narrative import label_of
from segrefine.runtime.words.prompt import Prompt, build_prompt
from segrefine.runtime.worth import other_words
from segrefine.settings import Changes, ZeroShotSettings

Floats = NDArray[np.float32]
ATTENTION = "unet_attention"
EXPORT_AGAIN = "export the model again: `segrefine export MODEL BUNDLE`"


@dataclass(frozen=True, kw_only=True, eq=False)
class ZeroShotResult:
    """Result of zero-shot segmentation, with its history.

    Attributes:
        segmentation: the masks.
        maps: where each phrase is, on the grid of the UNet's attention.
    """

    segmentation: Segmentation
    maps: Sequence[WordMap]


class ZeroShotSegmenter(EngineSet[ZeroShotSettings]):
    """Finds what phrases name with the engines of a text-to-image bundle; a context manager that closes them.

    Attributes:
        bundle: where the engines come from.
        settings: the method's numbers, for calls that give none.
    """

    method = "g4seg"

    def __init__(
        self,
        bundle: Bundle,
        engines: Mapping[str, Engine],
        *,
        settings: ZeroShotSettings | Changes | None = None,
        resolution: int | None = None,
    ) -> None:
        super().__init__(bundle, engines, resolution=resolution)
        self._own: Mapping[str, Engine] = engines
        self.settings = ZeroShotSettings.from_dict(bundle.manifest.zero_shot).change(settings)
        self._schedule = NoiseSchedule.from_config(bundle.read_json("scheduler/scheduler_config.json"))
        self._check_levels(self.settings)

    @classmethod
    def beside(cls, pipeline: EngineSet[Any], options: EngineOptions) -> ZeroShotSegmenter:
        """A segmenter that shares the engines of a pipeline on the same bundle. The caller closes both.

        Args:
            pipeline: a refiner; it must stay open.
            options: how its engines run.

        Raises:
            BundleError: the bundle was exported without the maps of attention.
        """
        bundle = pipeline.bundle
        cls.components(bundle)
        backend = choose_backend(options.backend, bundle.path, options.device, options.precision)
        own = load_engines(
            bundle, [ATTENTION], backend, device=options.device, precision=options.precision, threads=options.threads
        )
        beside = cls(bundle, {**pipeline.engines, **own}, resolution=pipeline.resolution)
        beside._own = own
        return beside

    def close(self) -> None:
        """Close the engines that are not shared."""
        for engine in self._own.values():
            engine.close()

    @classmethod
    def components(cls, bundle: Bundle) -> Sequence[str]:
        """The components that it needs.

        Raises:
            BundleError: the bundle was exported without the maps of attention.
        """
        if ATTENTION not in bundle.manifest.graphs:
            made = bundle.manifest.versions.get("segrefine", "an older version")
            raise BundleError(
                f"it has no graph {ATTENTION}: segrefine {made} exported it without the maps of attention",
                subject=bundle.path,
                hint=EXPORT_AGAIN,
            )
        return (*text_encoders(bundle), "vae_encoder", "unet", ATTENTION)

    def __call__(
        self,
        image: ImageLike,
        phrases: Sequence[str],
        *,
        settings: ZeroShotSettings | Changes | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Segmentation:
        """The masks of what the phrases name.

        Phrases compete: what one explains better counts against the others. With `evidence_logit` each is for itself.
        Phrases that read alike, such as "fox" and "the Fox", get the same mask, and are no rivals.

        Args:
            image: a picture of any size, as `as_image` takes it: a path, a PIL image or an array (H, W, 3).
            phrases: what to look for; one or more.
            settings: the method's numbers for this call; a dict changes some of `self.settings`, a text names a preset.
            seed: random seed of the noise.
            progress: called after every stage.

        Raises:
            ImageError: the image cannot be read.
            PromptError: no phrase, or one that is empty or too long.
            SettingsError: a setting or preset does not exist, or a value is wrong; so is a seed below 0.
            NumericalError: an engine gave a value that is not finite.
        """
        return self.look(image, phrases, settings=settings, seed=seed, progress=progress).segmentation

    def look(
        self,
        image: ImageLike,
        phrases: Sequence[str],
        *,
        settings: ZeroShotSettings | Changes | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> ZeroShotResult:
        """The same as a call, with the maps that the masks were read from."""
        check_seed(seed)
        s = self.settings.change(settings)
        self._check_levels(s)
        check_phrases(phrases)
        watch = Watch(progress, steps=3)
        fit = self.fit(as_image(image))
        prompts = [self._read(phrase, s) for phrase in phrases]
        # phrases that read alike are one, for as rivals they would take all evidence from each other
        distinct = {prompt.key: (phrase, prompt) for phrase, prompt in zip(phrases, prompts, strict=True)}
        nulls = choose_rivals([phrase for phrase, _ in distinct.values()], s, lambda word: self._fits(word, s))
        others = [self._read(word, s) for word in nulls]
        conditions = encode_prompts(self, [*(prompt for _, prompt in distinct.values()), *others], fit.grid)
        z0 = self.encode_image(fit.image)
        watch.step("encode")
        seen = self._look(conditions, z0, len(distinct), s, seed)
        watch.step("words")
        found = dict(zip(distinct, read_word_maps(seen, s), strict=True))
        maps = [found[prompt.key] for prompt in prompts]
        segments = self._to_segments(phrases, maps, fit, s)
        watch.step("edges")
        return ZeroShotResult(segmentation=Segmentation(segments=segments, seconds=watch.seconds), maps=maps)

    def _look(self, conditions: Conditions, z0: Floats, phrases: int, settings: ZeroShotSettings, seed: int) -> Seen:
        """Return the model's responses to the phrases and the null words."""
        levels = settings.text_timesteps
        noise = np.random.default_rng(seed).standard_normal((len(levels), *z0.shape[1:]), np.float32)
        denoiser = Denoiser(
            engines=self.engines, schedule=self._schedule, settings=settings.as_refining(), conditions=conditions
        )
        effect = denoiser.word_effects(z0, noise, range(len(conditions.token_indicator) - 1))
        asked = range(phrases) if settings.attention_weight else [NOTHING]  # what places attend to needs no words
        words, places = denoiser.attention(z0, noise, asked, settings.attention_timestep)
        words = np.broadcast_to(words, (phrases, *words.shape[1:]))
        return Seen(evidence=effect.evidence, error=effect.error, words=words, places=places)

    def _to_segments(
        self, phrases: Sequence[str], maps: Sequence[WordMap], fit: FittedImage, settings: ZeroShotSettings
    ) -> tuple[Segment, ...]:
        """The masks of the maps, at the pixels of the model's grid."""
        at_pixels = np.stack([fit.at_pixels(each.probability) for each in maps])[:, None]
        return tuple(read_samples(phrases, at_pixels, fit, guide_edges(fit, settings)))

    def _read(self, phrase: str, settings: ZeroShotSettings) -> Prompt:
        """The prompt of a phrase: its object in the template, or the phrase with the words before it in its caption."""
        try:
            if settings.context and isinstance(phrase, CaptionedPhrase):
                return read_in_context(self.tokenizer, phrase)
            return build_prompt(self.tokenizer, label_of(phrase), template=settings.template)
        except PromptError as error:
            raise error.about(f"phrase {quote_phrase(phrase)}") from error

    def _fits(self, word: str, settings: ZeroShotSettings) -> bool:
        try:
            build_prompt(self.tokenizer, word, template=settings.template)
        except PromptError:
            return False
        return True

    def _check_levels(self, settings: ZeroShotSettings) -> None:
        self._schedule.check_timesteps((*settings.text_timesteps, settings.attention_timestep))


def choose_rivals(phrases: Sequence[str], settings: ZeroShotSettings, fits: Callable[[str], bool]) -> tuple[str, ...]:
    """The null words, as many as fill up the phrases' rivals, none of which has a word in common with a phrase.

    Args:
        phrases: what is looked for.
        settings: say how many rivals a phrase has.
        fits: whether the text encoder takes a word as a whole.
    """
    return tuple(word for word in other_words(phrases) if fits(word))[: settings.count_null_words(len(phrases))]
