"""The whole of GS on engines: an image and phrases in, masks out.

`Segmenter.__call__` is the method (arXiv 2508.20020; `docs/gs.md`): encode the image once and each phrase once; draw
masks from noise under both; their mean is the probability, their spread the uncertainty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segrefine.bundle import Bundle
from segrefine.engines import Engine, cut_batch
from segrefine.errors import ImageError, PromptError, SettingsError
from segrefine.runtime.denoiser import Observe
from segrefine.runtime.edges import EdgeGuide, EdgeSettings, follow_edges, logit
from segrefine.runtime.engine_set import EngineSet, Progress, Watch, check_finite, text_encoders
from segrefine.runtime.grid import FittedImage
from segrefine.runtime.image import ImageLike, as_image
from segrefine.runtime.label_codec import label_decoder
from segrefine.runtime.prompt import MARKER, build_prompt
from segrefine.runtime.refinement import label_map
from segrefine.runtime.sampler import sample_ddim, sample_dpm_solver, sample_lcm
from segrefine.runtime.schedule import Array, NoiseSchedule
from segrefine.runtime.text import Text, count_texts, join_texts, pick_texts, repeat_texts
from segrefine.settings import Changes, GsSettings
from segrefine.spec import MAX_PIXELS

Floats = NDArray[np.float32]
COMPONENTS = ("vae_encoder", "label_denoiser")
Asked = tuple[ImageLike, Sequence[str]]
"""An image, as `as_image` takes it, and the phrases that are looked for in it."""

TEXT_BATCH = 64
"""Phrases in one call of the text encoder."""
MOST_QUOTED = 60
"""Characters of a phrase that an error quotes: what is wrong with it stands after them."""
ENCODE_SHARE = 4
"""The image encoder is given so much less at once than the denoiser; its memory grows with the image's pixels."""
EDGES, MASK_WEIGHT = EdgeSettings(contrast=1.0, iterations=2), 0.5
"""The edge step's numbers, and the weight in it of the sampled mask's log-odds; measured on validation scenes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """What one phrase names. Maps are kept on the model's grid, and brought to the image's size when asked for.

    Attributes:
        phrase: the words.
        samples: float32 (K, h, w) in [0, 1], the masks that were drawn, on the model's grid.
        mean: float32 (h, w), the samples' mean, its border moved to the image's edges unless the settings leave that.
        fit: the way from the grid to the image.
        refined: float16 (H, W) in [0, 1], what G4Seg made of the samples' mean; None where it was not asked, or had
            nothing to go by.
    """

    phrase: str
    samples: Floats
    mean: Floats
    fit: FittedImage = field(repr=False)
    refined: NDArray[np.float16] | None = field(default=None, repr=False)

    @property
    def probability(self) -> Floats:
        """Of a pixel to be of what is named: `refined`, or else `mean`; float32 (H, W) in [0, 1]."""
        if self.refined is not None:
            return self.refined.astype(np.float32)
        return self.fit.restore(self.mean).clip(0, 1)

    @property
    def uncertainty(self) -> Floats:
        """Standard deviation of the samples, float32 (H, W) in [0, 0.5]; 0 where there is one sample."""
        return self.fit.restore(self.samples.std(0)).clip(0, 0.5)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """What the phrase names, bool (H, W): a probability above one half."""
        return self.probability > 0.5

    @property
    def confidence(self) -> float:
        """Of the samples: their mean within the mask that they give, in (0.5, 1]; 0 where that or `mask` is empty."""
        mean, given = self.samples.mean(0), self.mean if self.refined is None else self.refined
        inside = mean[mean > 0.5]
        return float(inside.mean()) if inside.size and (given > 0.5).any() else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """The masks of an image's phrases.

    Attributes:
        segments: one for each phrase, in their order.
        seconds: time of each stage; texts are encoded beside the image, and `text` is what they take longer than it.
    """

    segments: tuple[Segment, ...]
    seconds: Mapping[str, float] = field(repr=False)

    def label_map(self) -> NDArray[np.uint16]:
        """For each pixel the number of its most probable phrase, from 1; 0 where none passes one half; uint16 (H, W).

        Phrases are compared one at a time, so that memory does not grow with their number.
        """
        return label_map(segment.probability for segment in self.segments)


class Segmenter(EngineSet[GsSettings]):
    """Generates masks from phrases with the engines of one bundle; a context manager that closes them.

    Attributes:
        bundle: where the engines come from.
        settings: the method's numbers, for calls that give none.
    """

    method = "gs"

    def __init__(
        self, bundle: Bundle, engines: Mapping[str, Engine], *, settings: GsSettings | Changes | None = None
    ) -> None:
        super().__init__(bundle, engines)
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
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise SettingsError(f"seed: expected a whole number of 0 or more, got {seed!r}")
        s = self.settings.change(settings)
        if not asked:
            return ()
        ids = np.concatenate([self._tokenize(phrases) for _, phrases in asked])
        fits = self._fit_alike([image for image, _ in asked])
        wanted = [(number, phrase) for number, (_, phrases) in enumerate(asked) for phrase in phrases]
        owners = np.array([number for number, _ in wanted])
        batch = max(1, self.most_samples(fits[0].grid, s) // s.samples)
        watch = Watch(progress, steps=2 + 2 * -(-len(wanted) // batch))
        beside = self._beside.submit(self._read_beside, ids, fits, s)
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
            masks = self._sample(z, owners[part], pick_texts(texts, part), s, rng, observe)
            watch.step("sample")
            for number in dict.fromkeys(owners[part].tolist()):
                rows = np.flatnonzero(owners[part] == number)
                named = [wanted[first + row][1] for row in rows]
                segments[number] += read_samples(named, masks[rows], fits[number], guides[number])
            watch.step("edges")
        return tuple(Segmentation(segments=tuple(each), seconds=watch.seconds) for each in segments)

    def most_samples(self, grid: tuple[int, int], settings: GsSettings) -> int:
        """Most masks that are drawn at once on a grid (height, width) in pixels; one or more."""
        latents = grid[0] * grid[1] // self.bundle.manifest.vae_scale_factor**2
        return max(1, MAX_PIXELS // (settings.predictions * latents))

    def _fit_alike(self, images: Sequence[ImageLike]) -> list[FittedImage]:
        fits = [self.fit(as_image(image)) for image in images]
        if len(grids := {fit.grid for fit in fits}) > 1:
            raise ImageError(f"expected images of one shape on the model's grid, got {sorted(grids)}",
                             hint="segment images of other shapes apart")  # fmt: skip
        return fits

    def _read_beside(
        self, ids: NDArray[np.int64], fits: Sequence[FittedImage], settings: GsSettings
    ) -> tuple[Text, list[EdgeGuide | None]]:
        """What does not wait for the images' latents: the texts of token ids (P, tokens), and the images' edges."""
        parts = [self.encode_text(ids[i : i + TEXT_BATCH], fits[0].grid) for i in range(0, len(ids), TEXT_BATCH)]
        return join_texts(parts), [guide_edges(fit, settings) for fit in fits]

    def _encode(self, fits: Sequence[FittedImage]) -> Floats:
        """Latents (I, c, h, w) of the images, several at once where they are small: the codec's memory is large."""
        images = np.stack([fit.image for fit in fits])
        most = max(1, MAX_PIXELS * self.bundle.manifest.vae_scale_factor**2 // (ENCODE_SHARE * images[0, ..., 0].size))
        parts = [self.encode_images(images[first : first + most]) for first in range(0, len(images), most)]
        return np.concatenate(parts)

    def _tokenize(self, phrases: Sequence[str]) -> NDArray[np.int64]:
        """Token ids (P, tokens) of the phrases."""
        if not isinstance(phrases, list | tuple) or not phrases:
            raise PromptError(
                f"expected one phrase or more in a list, got {phrases!r}", hint='such as ["the fox", "the red car"]'
            )
        return np.concatenate([self._token_ids(phrase) for phrase in phrases])

    def _token_ids(self, phrase: str) -> NDArray[np.int64]:
        try:
            return build_prompt(self.tokenizer, phrase, template=MARKER).input_ids
        except PromptError as error:
            named = repr(phrase)
            named = named if len(named) <= MOST_QUOTED else f"{named[:MOST_QUOTED]} …"
            raise PromptError(f"phrase {named}: {error}", hint=error.hint) from error

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
        start = np.tile(rng.standard_normal(shape, np.float32), (count, 1, 1, 1))
        denoise = LabelDenoiser(
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

        match s.sampler:
            case "ddim":
                latents = sample_ddim(denoise, start, self._schedule, s.steps, callback=watch)
            case "dpm-solver":
                latents = sample_dpm_solver(denoise, start, self._schedule, s.steps, callback=watch)
            case "lcm":
                fresh = np.tile(rng.standard_normal((s.steps - 1, *shape), np.float32), (1, count, 1, 1, 1))
                latents = sample_lcm(denoise, start, self._schedule, s.steps, noise=fresh, callback=watch)
        masks = self._decode(np.asarray(latents, np.float32))
        return masks.reshape(count, s.samples, *masks.shape[1:])


def guide_edges(fit: FittedImage, settings: GsSettings) -> EdgeGuide | None:
    """What the edge step needs of an image; None where the settings leave the step out."""
    return EdgeGuide(fit.image, EDGES) if settings.edges else None


def read_samples(phrases: Sequence[str], samples: Floats, fit: FittedImage, guide: EdgeGuide | None) -> list[Segment]:
    """What the samples of each phrase say together; a mask that is empty has no border to move.

    Args:
        phrases: P of them.
        samples: float32 (P, K, h, w) in [0, 1].
        fit: the image on the model's grid.
        guide: see `guide_edges`.
    """
    means = [fit.at_pixels(mean) for mean in samples.mean(1)] if guide else list(samples.mean(1))
    seen = [number for number, mean in enumerate(means) if (mean > 0.5).any()]
    if guide and seen:
        logits = np.float32(MASK_WEIGHT) * logit(np.stack([means[number] for number in seen]))
        for number, sharp in zip(seen, follow_edges(guide, logits), strict=True):
            means[number] = sharp
    parts = zip(phrases, samples, means, strict=True)
    return [Segment(phrase=phrase, samples=each, mean=mean, fit=fit) for phrase, each, mean in parts]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelDenoiser:
    """The label denoiser under images and phrases; called by a sampler.

    Attributes:
        engine: `label_denoiser`.
        settings: the method's numbers.
        image_latents: float32 (I, c, h, w).
        owners: (B,), the image of each sample.
        nothing: the empty phrase; not read without guidance.
        named: each sample's phrase.
    """

    engine: Engine
    settings: GsSettings
    image_latents: Floats
    owners: NDArray[np.intp]
    nothing: Text
    named: Text

    def __call__(self, sample: Array, timestep: int) -> Floats:
        """The output for label latents (B, C, h, w), with classifier-free guidance by image and phrase.

        ε = ε(∅, ∅) + s_image (ε(z, ∅) − ε(∅, ∅)) + s_text (ε(z, text) − ε(z, ∅)); terms of weight 0 are left out.
        """
        s_text, s_image = self.settings.guidance_scale, self.settings.image_guidance_scale
        z = self.image_latents[self.owners]
        if s_text == s_image == 1:
            return self._predict(timestep, [sample], [z], [self.named])
        rows, place = self._distinct(sample)
        nothing = repeat_texts(self.nothing, len(rows))
        terms = [(s_text, sample, z, self.named)]
        if s_image != s_text:
            terms.append((s_image - s_text, sample[rows], z[rows], nothing))
        if s_image != 1:
            terms.append((1 - s_image, sample[rows], np.zeros_like(z[rows]), nothing))
        output = self._predict(timestep, *zip(*(term[1:] for term in terms), strict=True))
        ends, guided = np.cumsum([len(term[1]) for term in terms])[:-1], np.zeros(sample.shape, np.float32)
        for (weight, *_), part in zip(terms, np.split(output, ends), strict=True):
            guided += np.float32(weight) * (part if len(part) == len(sample) else part[place])
        return check_finite(guided, "guidance", f"t={timestep}")

    def _distinct(self, sample: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows that stand for all where only the phrase differs, and for each sample which of these stands for it.

        They are the samples of each image's first phrase, while all of its phrases have the same latents, as before
        the first step; later, every row.
        """
        count = self.settings.samples
        _, first, image = np.unique(self.owners, return_index=True, return_inverse=True)
        rows = (first[:, None] + np.arange(count)).ravel()
        place = image * count + np.arange(len(sample)) % count
        if (sample == sample[rows][place]).all():
            return rows, place
        return np.arange(len(sample)), np.arange(len(sample))

    def _predict(
        self, timestep: int, samples: Sequence[Array], image_latents: Sequence[Floats], texts: Sequence[Text]
    ) -> Floats:
        """The output for several batches at once."""
        feeds: dict[str, NDArray[Any]] = {
            "sample": np.concatenate(samples, dtype=np.float32),
            "image_latents": np.concatenate(image_latents),
            **join_texts(texts),
        }
        feeds["timestep"] = np.full(len(feeds["sample"]), timestep, np.int64)
        most = max(1, MAX_PIXELS // self.image_latents[0, 0].size)
        parts = [self.engine(part)["out_sample"] for part in cut_batch(feeds, most)]
        return check_finite(np.concatenate(parts), "label_denoiser", f"t={timestep}")
