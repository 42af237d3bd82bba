"""What one process of a batch does: it opens the engines once, then reads, refines and writes item after item."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.batch.journal import Entry, Judgement
from segrefine.datasets.coco import CocoDataset, read_annotation
from segrefine.datasets.folder import FolderDataset
from segrefine.datasets.items import Dataset, Item, LabelledMask, read_image
from segrefine.engines import usable_cores
from segrefine.errors import SegrefineError
from segrefine.runtime.crop import refine_masks
from segrefine.runtime.mask import has_border
from segrefine.runtime.pipeline import Refinement, Refiner

Read = tuple[NDArray[np.uint8], list[LabelledMask]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A data set, the model that refines it, and where the results go.

    Attributes:
        source: a folder, or a COCO JSON.
        images: folder of a COCO JSON's images; None for the one beside it.
        output: folder of the results.
        engines: arguments of `Refiner.from_bundle`; `threads` is of each process.
        seed: of the noise, of every image alike.
        guarded: whether changes that cannot be trusted are put back.
        crop: whether small objects are refined in a crop around them.
    """

    source: Path
    images: Path | None
    output: Path
    engines: dict[str, Any]
    seed: int = 0
    guarded: bool = False
    crop: bool = True

    def with_threads(self, threads: int) -> Job:
        """The same with so many threads in each process."""
        return replace(self, engines=self.engines | {"threads": threads})

    def share_cores(self, workers: int) -> Job:
        """The same with the cores that this one may use shared among processes, where nobody named their threads."""
        return self.with_threads(self.engines["threads"] or max(1, usable_cores() // workers))

    def open_dataset(self) -> Dataset:
        """The data set.

        Raises:
            MaskError: there is none.
        """
        return CocoDataset(self.source, self.images) if self.source.is_file() else FolderDataset(self.source)


def serve(job: Job, pipe: Connection) -> None:
    """Refines the items that come through the pipe, and sends an `Entry` for each, in order, until it is killed.

    The next item is read while the one before is refined. An error of an item is its entry, and no error of the run.
    Sent first: None once the engines are open, or the error why they are not.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        dataset, refiner = job.open_dataset(), Refiner.from_bundle(**job.engines)
    except SegrefineError as error:
        pipe.send(error)
        return
    pipe.send(None)
    waiting: deque[tuple[Item, Future[Read]]] = deque()
    with refiner, ThreadPoolExecutor(1) as reader:
        while True:
            while not waiting or pipe.poll():
                item = pipe.recv()
                waiting.append((item, reader.submit(read_item, dataset, item)))
            pipe.send(attempt(job, dataset, refiner, *waiting.popleft()))


def _end_with_parent() -> None:
    """Ends this process as soon as the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def read_item(dataset: Dataset, item: Item) -> Read:
    """The image of an item and its masks; raises what is wrong with them."""
    image = read_image(item)
    return image, dataset.read(item, (image.shape[0], image.shape[1]))


def attempt(job: Job, dataset: Dataset, refiner: Refiner, item: Item, read: Future[Read]) -> Entry:
    """What became of an item: whatever goes wrong with it is told, and the next one has its turn."""
    began = time.perf_counter()
    try:
        image, masks = read.result()
        size = image.shape[0], image.shape[1]
        results: Sequence[Refinement] = ()
        if masks:
            results = refine_masks(refiner, image, masks, seed=job.seed, crop=job.crop, guarded=job.guarded)
        labelled = [(label, result) for (label, _), result in zip(masks, results, strict=True)]
        judged = tuple(_judgements(dataset, item, labelled, size)) if job.guarded else ()
        dataset.write(item, labelled, size, job.output)
    except Exception as error:  # of one image among thousands
        hint = error.hint if isinstance(error, SegrefineError) else None
        return Entry(
            name=item.name, status="failed", seconds=time.perf_counter() - began,
            error=type(error).__name__, message=str(error), hint=hint,
        )  # fmt: skip
    return Entry(
        name=item.name, status="done", seconds=time.perf_counter() - began,
        masks=len(masks), left=max(0, len(item.masks) - len(masks)),  # one label map may hold many
        kept_coarse=sum(result.kept_coarse for result in results),
        kept_partly=sum(0 < result.kept_share < 1 for result in results),
        judged=judged,
    )  # fmt: skip


def _judgements(
    dataset: Dataset, item: Item, results: Sequence[tuple[str, Refinement]], size: tuple[int, int]
) -> Iterator[Judgement]:
    """What the guard made of each mask of an item."""
    numbers: Sequence[int | str | None] = [None] * len(results)
    if isinstance(dataset, CocoDataset):
        numbers = [each.get("id") for _, each in item.masks if has_border(read_annotation(each, size))]
    for (label, result), number in zip(results, numbers, strict=True):
        assert result.confidence is not None  # the guard looked at all
        yield Judgement(
            label=label, annotation=number, confidence=round(result.confidence, 4),
            kept_share=round(result.kept_share, 4), kept_coarse=result.kept_coarse,
        )  # fmt: skip
