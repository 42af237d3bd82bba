"""Engines that a worker of a batch opens once: to find masks, to refine them, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segrefine.batch.finding import Finder, PhraseFinder, find_for
from segrefine.bundle import Bundle
from segrefine.bundle_sources import local_bundle
from segrefine.datasets.items import Item, Key, LabelledMask, Pixels, Reading
from segrefine.datasets.notation import Notation
from segrefine.engines import Closing
from segrefine.runtime.chain import refine_jointly
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.refinement import Refinement
from segrefine.runtime.segmenter import Segmenter

if TYPE_CHECKING:
    from segrefine.batch.worker import Job


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundMask:
    """A mask that was found and is not refined.

    Attributes:
        name: what it shows.
        probability: float32 (H, W) in [0, 1].
    """

    name: str
    probability: NDArray[np.float32]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Bool (H, W)."""
        return self.probability > 0.5

    @property
    def confidence(self) -> None:
        """Return None, since the confidence is unknown."""


class Tools(Closing):
    """The engines of one worker.

    Args:
        refiner: refines masks; None where the masks that are found are the result.
        finder: finds masks; None where the data set has them.
    """

    def __init__(self, refiner: Refiner | None, finder: Finder | None) -> None:
        self._refiner, self._finder = refiner, finder

    @classmethod
    def open(cls, job: Job, dataset: Notation) -> Tools:
        """Open what a job takes.

        Raises:
            SegrefineError: the engines do not open.
        """
        finds_phrases = dataset.has_phrases and dataset.place.options.zero_shot
        if finds_phrases and Bundle.open(local_bundle(job.setup.bundle)).manifest.method == "gs":
            return cls(None, PhraseFinder.of_segmenter(Segmenter.from_setup(job.setup), job.seed))
        refiner = Refiner.from_setup(job.setup)
        try:
            return cls(refiner, find_for(refiner, job.setup.engines, dataset, job.seed))
        except BaseException:
            refiner.close()
            raise

    def make_masks(
        self, job: Job, item: Item, image: Pixels, reading: Reading
    ) -> tuple[Reading, Mapping[Key, Refinement | FoundMask], Sequence[tuple[LabelledMask, Refinement]]]:
        """Find and refine the masks of an image.

        Args:
            job: how.
            item: the image's.
            image: its pixels, uint8 (H, W, 3).
            reading: the masks that the data set has.

        Returns:
            The masks, the results by their keys, and the masks that were refined, each with its refinement.
        """
        if self._finder is not None:
            reading = self._finder.find(image, item)
        if self._refiner is None:
            return (
                reading,
                {each.key: _found(each) for each in reading.masks},
                (),
            )
        groups = [[each] for each in reading.masks] if job.alone else [list(reading.masks)]
        pairs: list[tuple[LabelledMask, Refinement | None]] = []
        for group in filter(None, groups):
            pairs += zip(group, self._refine(job, image, group), strict=True)
        made = {each.key: result or _found(each) for each, result in pairs}
        return reading, made, [(each, result) for each, result in pairs if result is not None]

    def _refine(self, job: Job, image: Pixels, masks: Sequence[LabelledMask]) -> Sequence[Refinement | None]:
        """Refine masks jointly; None for one that was found and has no border."""
        assert self._refiner is not None
        if self._finder is not None:
            found = [(each.label, _probability(each)) for each in masks]
            return refine_jointly(self._refiner, image, found, seed=job.seed, crop=job.crop, guard=job.guard)
        pairs = [(each.label, each.mask) for each in masks]
        return self._refiner(image, pairs, seed=job.seed, crop=job.crop, guard=job.guard)

    def close(self) -> None:
        """Close all engines."""
        if self._finder is not None:
            self._finder.close()
        if self._refiner is not None:
            self._refiner.close()


def _found(mask: LabelledMask) -> FoundMask:
    return FoundMask(name=mask.label, probability=_probability(mask))


def _probability(mask: LabelledMask) -> NDArray[np.float32]:
    return mask.mask if isinstance(mask.mask, np.ndarray) else mask.mask.probability
