"""Baselines of a benchmark: the coarse masks themselves, and classical tools."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from segrefine.batch.apart import write_apart
from segrefine.batch.journal import Entry, Journal
from segrefine.batch.tools import FoundMask
from segrefine.batch.worker import Job, read_item
from segrefine.datasets.items import Item, Key, LabelledMask, Pixels
from segrefine.datasets.notation import Notation
from segrefine.errors import SegrefineError
from segrefine.evaluation.bench.baselines import dense_crf, grabcut
from segrefine.runtime.files.mask import CoarseMask
from segrefine.runtime.imaging.edges import EdgeSettings, sharpen
from segrefine.runtime.refinement import Refinement

Mask = NDArray[np.bool_]
Method = Callable[[Pixels, NDArray[np.float32]], Mask]
COARSE = "coarse"


def follow_edges(image: Pixels, coarse: NDArray[np.float32]) -> Mask:
    """The edge step of segrefine alone, without any model."""
    return np.asarray(sharpen(image, coarse, np.zeros_like(coarse), EdgeSettings()) > 0.5)


METHODS: dict[str, Method] = {"edge-step": follow_edges, "grabcut": grabcut, "dense-crf": dense_crf}
"""Every comparison by its name."""


def write_masks(
    name: str, job: Job, dataset: Notation, output: Path, tell: Callable[[str, int, int], None] | None = None
) -> None:
    """Write the masks that a method makes of all images of a data set; go on where a run before was stopped.

    Args:
        name: of the method, or `coarse` for the masks as they came.
        job: how images are read, and whether each mask is also kept whole, where others overlap it.
        dataset: the images with their coarse masks.
        output: folder of the results.
        tell: called with the method, how many images are finished, and how many there are.
    """
    output.mkdir(parents=True, exist_ok=True)
    journal, items = Journal(output), dataset.items
    for number, item in enumerate(items, 1):
        entry = journal.entries.get(item.name)
        if not (entry and entry.status == "done" and dataset.is_done(item, output)):
            journal.add(_write_item(name, job, dataset, item, output))
        if tell:
            tell(name, number, len(items))
    dataset.finish(output)


def _write_item(name: str, job: Job, dataset: Notation, item: Item, output: Path) -> Entry:
    """Write the masks of one image and return its entry. An error fails this image, not the run."""
    try:
        image, reading = read_item(job, dataset, item)
        began = time.perf_counter()
        made = _apply(METHODS[name], image, reading.masks) if name != COARSE else {}
        seconds = time.perf_counter() - began
        if job.alone and made:
            write_apart(item, made, output)
        results = _divide(made, reading.masks)
        dataset.write(item, cast("Mapping[Key, Refinement]", results), (image.shape[0], image.shape[1]), output)
    except Exception as error:  # of one image among thousands
        hint = error.hint if isinstance(error, SegrefineError) else None
        kind = type(error).__name__
        return Entry(name=item.name, status="failed", error=kind, message=str(error), hint=hint)
    return Entry(name=item.name, status="done", masks=len(reading.masks), left=reading.left, seconds=seconds)


def _apply(method: Method, image: Pixels, masks: Sequence[LabelledMask]) -> dict[Key, FoundMask]:
    """The masks of an image, each made for itself."""
    return {
        each.key: FoundMask(name=each.label, probability=method(image, _probability(each)).astype(np.float32))
        for each in masks
    }


def _divide(made: Mapping[Key, FoundMask], masks: Sequence[LabelledMask]) -> dict[Key, FoundMask]:
    """The same without overlaps: a pixel that several claim goes to the one whose coarse mask has it, or the first."""
    coarse = {each.key: _probability(each) > 0.5 for each in masks}
    claims = [each.mask for each in made.values()]
    free = np.sum(claims, axis=0) < 2 if claims else True
    taken = np.any([made[key].mask & coarse[key] for key in made], axis=0) if claims else False
    left = ~free & ~taken if claims else False
    divided: dict[Key, FoundMask] = {}
    for key, each in made.items():
        own = each.mask & (free | coarse[key] | left)
        left = left & ~each.mask
        divided[key] = FoundMask(name=each.name, probability=own.astype(np.float32))
    return divided


def _probability(mask: LabelledMask) -> NDArray[np.float32]:
    return mask.mask.probability if isinstance(mask.mask, CoarseMask) else mask.mask
