"""The whole of GS on engines: an image and phrases in, masks out.

`Segmenter.__call__` is the method (arXiv 2508.20020; `docs/gs.md`). Encode the image once and each phrase once. Sample
masks from noise under both. Their mean is the probability, their spread is the uncertainty.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segrefine.bundle import Bundle
from segrefine.engines import Engine
from segrefine.errors import ImageError, PromptError
from segrefine.runtime.denoiser import Observe
from segrefine.runtime.engine_set import EngineSet, Progress, Watch, check_seed, text_encoders
from segrefine.runtime.files.image import ImageLike, as_image
from segrefine.runtime.imaging.edges import EdgeGuide
from segrefine.runtime.imaging.grid import FittedImage
from segrefine.runtime.label_codec import label_decoder
from segrefine.runtime.label_denoiser import GuidedDenoiser
from segrefine.runtime.schedule import Array, NoiseSchedule
from segrefine.runtime.segmentation import Segment, Segmentation, guide_edges, read_samples
from segrefine.runtime.words.context import CaptionedPhrase, read_in_context, reorder_states
from segrefine.runtime.words.prompt import MARKER, Prompt, build_prompt
from segrefine.runtime.words.text import Text, count_texts, join_texts, pick_texts, repeat_texts
from segrefine.samplers import SAMPLERS
from segrefine.settings import Changes, GsSettings
from segrefine.spec import MAX_PIXELS

Floats = NDArray[np.float32]
COMPONENTS = ("vae_encoder", "label_denoiser")
Asked = tuple[ImageLike, Sequence[str]]
"""An image, as `as_image` takes it, and the phrases that are looked for in it."""

_LOGGER = logging.getLogger(__name__)
TEXT_BATCH = 64
"""Phrases in one call of the text encoder."""
MOST_QUOTED = 60
"""Longest part of a phrase that an error quotes."""
ENCODE_SHARE = 4
"""Divisor: batches of the image encoder are this many times smaller than the denoiser's."""


class Segmenter(EngineSet[GsSettings]):
    """Generates masks from phrases with the engines of one bundle; a context manager that closes them.

    Attributes:
        bundle: where the engines come from.
        settings: the method's numbers, for calls that give none.
    """

    method = "gs"

    def __init__(
        self,
        bundle: Bundle,
        engines: Mapping[str, Engine],
        *,
        settings: GsSettings | Changes | None = None,
        resolution: int | None = None,
    ) -> None:
        super().__init__(bundle, engines, resolution=resolution)
        self.settings = GsSettings.from_dict(bundle.manifest.settings).change(settings)
        self._schedule = NoiseSchedule.from_config(bundle.read_json("scheduler/scheduler_config.json"))
        self._empty: dict[tuple[int, int], Text] = {}
        self._decode = label_decoder(bundle.manifest.label_codec, self.decode_image)
        self._beside = ThreadPoolExecutor(1, "segmenter")

    @classmethod
    def components(cls, bundle: Bundle) -> Sequence[str]:
        """The components that generating takes: the image decoder too, where masks are images."""
        masks_are_images = bundle.manifest.label_codec.get("kind") == "vae"
        return (*text_encoders(bundle), *COMPONENTS, *(["vae_decoder"] if masks_are_images else []))

    def __call__(
        self,
        image: ImageLike,
        phrases: Sequence[str],
        *,
        settings: GsSettings | Changes | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        observe: Observe | None = None,
    ) -> Segmentation:
        """The masks of what the phrases name.

        Every phrase is sampled from the same noises, so that its mask depends on no other phrase.

        Args:
            image: a picture of any size, as `as_image` takes it: a path, a PIL image or an array (H, W, 3).
            phrases: what to look for; one or more.
            settings: the method's numbers for this call; a dict changes some of `self.settings`, a text names a preset.
            seed: random seed of the noise.
            progress: called after every stage.
            observe: called with every step of every batch of phrases.

        Raises:
            ImageError: the image cannot be read.
            PromptError: no phrase, or one that is empty or too long.
            SettingsError: a setting or preset does not exist, or a value is wrong; so is a seed below 0.
            NumericalError: an engine gave a value that is not finite.
        """
        asked = [(image, phrases)]
        return self.segment_images(asked, settings=settings, seed=seed, progress=progress, observe=observe)[0]

    def segment_images(
        self,
        asked: Sequence[Asked],
        *,
        settings: GsSettings | Changes | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        observe: Observe | None = None,
    ) -> tuple[Segmentation, ...]:
        """The masks of what phrases name in each of several images, whose phrases are one batch of the denoiser.

        Every mask is what it would be if its image and its phrase were alone, up to rounding.

        Args:
            asked: images, as `as_image` takes them, of one shape on the model's grid (`fit`), each with its phrases.
            settings: see `__call__`.
            seed: random seed of the noise.
            progress: called after every stage.
            observe: called with every step of every batch of phrases.

        Raises:
            ImageError: an image cannot be read, or the images are not of one shape on the grid.
            SegrefineError: see `__call__`.
        """
        check_seed(seed)
        s = self.settings.change(settings)
        if not asked:
            return ()
        prompts = [prompt for _, phrases in asked for prompt in self._tokenize(phrases, context=s.context)]
        fits = self._fit_alike([image for image, _ in asked])
        wanted = [(number, phrase) for number, (_, phrases) in enumerate(asked) for phrase in phrases]
        owners = np.array([number for number, _ in wanted])
        batch = max(1, self.most_samples(fits[0].grid, s) // s.samples)
        watch = Watch(progress, steps=2 + 2 * -(-len(wanted) // batch))
        # z ← VAE(I), while another thread computes τ ← text encoder(phrase) and the edges of the images
        beside = self._beside.submit(self._read_beside, prompts, fits, s)
        try:
            z = self._encode(fits)
        finally:
            wait([beside])
        watch.step("image")
        texts, guides = beside.result()
        watch.step("text")
        segments: list[list[Segment]] = [[] for _ in asked]
        for first in range(0, len(wanted), batch):
            part = np.s_[first : first + batch]
            rng = np.random.default_rng(seed)
            # y ← noise, denoised under z and τ; m ← decode(y)
            masks = self._sample(z, owners[part], pick_texts(texts, part), s, rng, observe)
            watch.step("sample")
            for number in dict.fromkeys(owners[part].tolist()):
                rows = np.flatnonzero(owners[part] == number)
                named = [wanted[first + row][1] for row in rows]
                # probability ← mean of m; uncertainty ← its spread; the border moves to the edges
                segments[number] += read_samples(named, masks[rows], fits[number], guides[number])
            watch.step("edges")
        _LOGGER.info("%d phrases in %d images, %d in a batch", len(wanted), len(asked), batch)
        return tuple(Segmentation(segments=tuple(each), seconds=watch.seconds) for each in segments)

    def most_samples(self, grid: tuple[int, int], settings: GsSettings) -> int:
        """Most masks that are drawn at once on a grid (height, width) in pixels; one or more."""
        latents = grid[0] * grid[1] // self.bundle.manifest.vae_scale_factor**2
        return max(1, MAX_PIXELS // (settings.predictions * latents))

    def _fit_alike(self, images: Sequence[ImageLike]) -> list[FittedImage]:
        fits = [self.fit(as_image(image)) for image in images]
        if len(grids := {fit.grid for fit in fits}) > 1:
            hint = "segment images of other shapes apart"
            raise ImageError(expected="images of one shape on the model's grid", got=sorted(grids), hint=hint)
        return fits

    def _read_beside(
        self, prompts: Sequence[Prompt], fits: Sequence[FittedImage], settings: GsSettings
    ) -> tuple[Text, list[EdgeGuide | None]]:
        """Encode the phrases and find the images' edges: the work that needs no latents."""
        ids = np.concatenate([prompt.input_ids for prompt in prompts])
        parts = [self.encode_text(ids[i : i + TEXT_BATCH], fits[0].grid) for i in range(0, len(ids), TEXT_BATCH)]
        texts = reorder_states(join_texts(parts), [prompt.order for prompt in prompts])
        return texts, [guide_edges(fit, settings) for fit in fits]

    def _encode(self, fits: Sequence[FittedImage]) -> Floats:
        """Latents (I, c, h, w) of the images, several at once where they are small: the codec's memory is large."""
        images = np.stack([fit.image for fit in fits])
        most = max(1, MAX_PIXELS * self.bundle.manifest.vae_scale_factor**2 // (ENCODE_SHARE * images[0, ..., 0].size))
        parts = [self.encode_images(images[first : first + most]) for first in range(0, len(images), most)]
        return np.concatenate(parts)

    def _tokenize(self, phrases: Sequence[str], *, context: bool) -> list[Prompt]:
        """The prompt of each phrase, alone or with the words before it in its caption."""
        check_phrases(phrases)
        return [self._read(phrase, context=context) for phrase in phrases]

    def _read(self, phrase: str, *, context: bool) -> Prompt:
        try:
            alone = build_prompt(self.tokenizer, phrase, template=MARKER)
            return read_in_context(self.tokenizer, phrase) if context and isinstance(phrase, CaptionedPhrase) else alone
        except PromptError as error:
            raise error.about(f"phrase {quote_phrase(phrase)}") from error

    def _nothing(self, z: Floats) -> Text:
        """The empty phrase, from which guidance leads away, for images with latents (I, c, h, w)."""
        height, width = (side * self.bundle.manifest.vae_scale_factor for side in z.shape[2:])
        if (height, width) not in self._empty:
            self._empty = {(height, width): self.encode_text(self.tokenizer(""), (height, width))}
        return self._empty[height, width]

    def _sample(
        self,
        z: Floats,
        owners: NDArray[np.intp],
        named: Text,
        settings: GsSettings,
        rng: Generator,
        observe: Observe | None,
    ) -> Floats:
        """Masks, float32 (P, K, h, w) in [0, 1], of P phrases in the images `owners` (P,) of latents z (I, c, h, w)."""
        s = settings
        count = count_texts(named)
        channels = int(self.bundle.manifest.components["label_denoiser"].outputs[0].shape[1])
        shape = (s.samples, channels, *z.shape[2:])
        # y ← the same K noises for every phrase
        start = np.tile(rng.standard_normal(shape, np.float32), (count, 1, 1, 1))
        denoise = GuidedDenoiser(
            engine=self.engines["label_denoiser"],
            settings=s,
            image_latents=z,
            owners=np.repeat(owners, s.samples),
            nothing=self._nothing(z) if s.predictions > 1 else {},
            named=repeat_texts(named, s.samples),
        )

        def watch(_: int, timestep: int, latents: Array) -> None:
            if observe:
                observe("sampling", timestep, np.asarray(latents, np.float32))

        sampler = SAMPLERS[s.sampler]
        extra = {}
        if sampler.takes_noise:
            fresh = rng.standard_normal((s.steps - 1, *shape), np.float32)
            extra = {"noise": np.tile(fresh, (1, count, 1, 1, 1))}
        latents = sampler.load()(denoise, start, self._schedule, s.steps, callback=watch, **extra)
        masks = self._decode(np.asarray(latents, np.float32))
        return masks.reshape(count, s.samples, *masks.shape[1:])


def check_phrases(phrases: Sequence[str]) -> None:
    """Check that there is a list of phrases, and that each is a text.

    Raises:
        PromptError: there is none, nothing in it, or something else in it.
    """
    hint = 'such as ["the fox", "the red car"]'
    if not isinstance(phrases, list | tuple) or not phrases:
        raise PromptError(expected="one phrase or more in a list", got=repr(phrases), hint=hint)
    for phrase in phrases:
        if not isinstance(phrase, str):
            raise PromptError(expected="every phrase as text", got=quote_phrase(phrase), hint=hint)


def quote_phrase(phrase: object) -> str:
    """A phrase as errors name it, cut off where it is long."""
    named = repr(phrase)
    return named if len(named) <= MOST_QUOTED else f"{named[:MOST_QUOTED]} …"
