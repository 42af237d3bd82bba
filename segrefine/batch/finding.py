"""Finding classes by their names, for a data set that has no masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segrefine.datasets.images_alone import ImagesAlone
from segrefine.datasets.items import LabelledMask, Pixels, Reading
from segrefine.datasets.notation import Notation
from segrefine.engines import Closing, EngineOptions
from segrefine.runtime.files.mask import has_border
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.zero_shot import ZeroShotSegmenter

if TYPE_CHECKING:
    from typing import Self


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

    @classmethod
    def open(cls, refiner: Refiner, options: EngineOptions, dataset: Notation, seed: int) -> Self | None:
        """The finder of a data set without masks; None where it has masks."""
        return cls(refiner, options, dataset, seed) if isinstance(dataset, ImagesAlone) else None

    def find(self, image: Pixels) -> Reading:
        """The coarse masks of the classes that are in an image, uint8 (H, W, 3)."""
        texts = {name: self._classes.prompt_of(name) for name in self._classes.names.values()}
        settings = self._segment.settings.for_refining()
        found = self._segment(image, list(texts.values()), settings=settings, seed=self._seed)
        pairs = zip(texts, found.segments, strict=True)
        masks = [
            LabelledMask(key=name, label=texts[name], mask=segment.probability)
            for name, segment in pairs
            if has_border(segment.mask)
        ]
        return Reading(masks=masks)

    def close(self) -> None:
        """Close what is not the refiner's."""
        self._segment.close()
