"""Finding what words name, for a data set whose masks are to be found: classes of a list, or phrases of each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from segrefine.datasets.images_alone import ImagesAlone
from segrefine.datasets.items import Item, LabelledMask, Pixels, Reading
from segrefine.datasets.notation import Notation
from segrefine.datasets.phrases import Phrase
from segrefine.engines import Closing, EngineOptions
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmentation import Segment
from segrefine.runtime.segmenter import Segmenter
from segrefine.runtime.words.context import CaptionedPhrase
from segrefine.runtime.zero_shot import ZeroShotSegmenter

Segmenting = Callable[[Pixels, Sequence[str]], Sequence[Segment]]


class Finder(Protocol):
    """Finds masks in an image."""

    def find(self, image: Pixels, item: Item) -> Reading:
        """The coarse masks of what is looked for in an image, uint8 (H, W, 3)."""
        ...

    def close(self) -> None:
        """Close what is the finder's own."""
        ...


class ClassFinder(Closing):
    """Finds the classes of a list in images, with the engines of a refiner.

    Args:
        refiner: what refines the masks; it must stay open.
        options: how its engines run.
        dataset: names the classes.
        seed: of the noise.
    """

    def __init__(self, refiner: Refiner, options: EngineOptions, dataset: ImagesAlone, seed: int) -> None:
        self._segment = ZeroShotSegmenter.beside(refiner, options)
        self._classes, self._seed = dataset.classes, seed

    def find(self, image: Pixels, item: Item) -> Reading:
        """The coarse masks of the classes that are in an image, uint8 (H, W, 3)."""
        texts = {name: self._classes.prompt_of(name) for name in self._classes.names.values()}
        settings = self._segment.settings.for_refining()
        found = self._segment(image, list(texts.values()), settings=settings, seed=self._seed)
        pairs = zip(texts, found.segments, strict=True)
        masks = [
            LabelledMask(key=name, label=texts[name], mask=segment.probability)
            for name, segment in pairs
            if segment.mask.any()
        ]
        return Reading(masks=masks)

    def close(self) -> None:
        """Close what is not the refiner's."""
        self._segment.close()


class PhraseFinder(Closing):
    """Finds what the phrases of an image name.

    Args:
        segment: finds the masks of texts in an image.
        opened: what is closed with the finder.
        refines: whether the masks are refined afterwards: then empty ones are left out.
        context: whether phrases are read in their captions.
    """

    def __init__(self, segment: Segmenting, opened: Closing, *, refines: bool, context: bool = False) -> None:
        self._segment, self._opened = segment, opened
        self._refines, self._context = refines, context

    @classmethod
    def of_segmenter(cls, segmenter: Segmenter, seed: int) -> PhraseFinder:
        """The finder of a label diffusion model, whose masks stay as they are."""

        def segment(image: Pixels, texts: Sequence[str]) -> Sequence[Segment]:
            return segmenter(image, texts, seed=seed).segments

        return cls(segment, segmenter, refines=False, context=segmenter.settings.context)

    @classmethod
    def of_refiner(cls, refiner: Refiner, options: EngineOptions, seed: int) -> PhraseFinder:
        """The finder of a text-to-image model, with the engines of a refiner, which must stay open."""
        zero_shot = ZeroShotSegmenter.beside(refiner, options)
        settings = zero_shot.settings.for_refining()

        def segment(image: Pixels, texts: Sequence[str]) -> Sequence[Segment]:
            return zero_shot(image, texts, settings=settings, seed=seed).segments

        return cls(segment, zero_shot, refines=True)

    def find(self, image: Pixels, item: Item) -> Reading:
        """The masks of the phrases of an item in its image, uint8 (H, W, 3); a text that comes twice is found once."""
        phrases: Sequence[Phrase] = item.masks
        texts = [self._text_of(phrase) for phrase in phrases]
        asked = list(dict.fromkeys(texts))
        found = dict(zip(asked, self._segment(image, asked), strict=True))
        masks = []
        for phrase, text in zip(phrases, texts, strict=True):
            segment = found[text]
            if not self._refines or segment.mask.any():
                masks.append(LabelledMask(key=phrase.number, label=phrase.text, mask=segment.probability))
        return Reading(masks=masks)

    def _text_of(self, phrase: Phrase) -> str:
        """A phrase as a text, which knows its caption where that is read."""
        if not self._context or phrase.caption is None:
            return phrase.text
        return CaptionedPhrase(phrase.text, *phrase.caption)

    def close(self) -> None:
        """Close what finds the masks."""
        self._opened.close()


def find_for(refiner: Refiner, options: EngineOptions, dataset: Notation, seed: int) -> Finder | None:
    """The finder of a data set whose masks are to be found, with the engines of a refiner; None where it has masks."""
    if isinstance(dataset, ImagesAlone):
        return ClassFinder(refiner, options, dataset, seed)
    if dataset.has_phrases and dataset.place.options.zero_shot:
        return PhraseFinder.of_refiner(refiner, options, seed)
    return None
