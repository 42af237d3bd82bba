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

from segrefine.batch.journal import Entry, Judgement
from segrefine.datasets.coco import CocoDataset
from segrefine.datasets.folder import FolderDataset
from segrefine.datasets.items import Dataset, Item, LabelledMask, Pixels, Reading, read_image
from segrefine.engines import usable_cores
from segrefine.errors import SegrefineError
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.refinement import Refinement

Read = tuple[Pixels, Reading]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A data set, the model that refines it, and where the results go.

    Attributes:
        source: a folder, or a COCO JSON.
        images: folder of a COCO JSON's images; None for the one beside it.
        output: folder of the results.
        engines: arguments of `Refiner.from_bundle`; `threads` is of each process.
        seed: of the noise, of every image alike.
        guard: whether changes that cannot be trusted are undone.
        crop: whether small objects are refined in a crop around them.
        boxes: whether an annotation that has a box and no mask is refined from its box.
    """

    source: Path
    images: Path | None
    output: Path
    engines: dict[str, Any]
    seed: int = 0
    guard: bool = True
    crop: bool = True
    boxes: bool = False

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
        if self.source.is_file():
            return CocoDataset(self.source, self.images, boxes=self.boxes)
        return FolderDataset(self.source)


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
    return image, dataset.read(item, image)


def attempt(job: Job, dataset: Dataset, refiner: Refiner, item: Item, read: Future[Read]) -> Entry:
    """What became of an item: whatever goes wrong with it is told, and the next one has its turn."""
    began = time.perf_counter()
    try:
        image, reading = read.result()
        results: Sequence[Refinement] = ()
        if reading.masks:
            masks = [(each.label, each.mask) for each in reading.masks]
            results = refiner(image, masks, seed=job.seed, crop=job.crop, guard=job.guard)
        refined = {each.key: result for each, result in zip(reading.masks, results, strict=True)}
        dataset.write(item, refined, (image.shape[0], image.shape[1]), job.output)
    except Exception as error:  # of one image among thousands
        hint = error.hint if isinstance(error, SegrefineError) else None
        return Entry(
            name=item.name, status="failed", seconds=time.perf_counter() - began,
            error=type(error).__name__, message=str(error), hint=hint,
        )  # fmt: skip
    return Entry(
        name=item.name, status="done", seconds=time.perf_counter() - began,
        masks=len(reading.masks), left=reading.left, unusable=tuple(reading.unusable),
        kept_coarse=sum(result.kept_coarse for result in results),
        kept_partly=sum(0 < result.kept_share < 1 for result in results),
        judged=tuple(_judgements(reading.masks, results)) if job.guard else (),
    )  # fmt: skip


def _judgements(masks: Sequence[LabelledMask], results: Sequence[Refinement]) -> Iterator[Judgement]:
    """What the guard made of each mask of an item."""
    for mask, result in zip(masks, results, strict=True):
        assert result.confidence is not None  # the guard looked at all
        yield Judgement(
            label=mask.label, annotation=mask.annotation, confidence=round(result.confidence, 4),
            kept_share=round(result.kept_share, 4), kept_coarse=result.kept_coarse,
        )  # fmt: skip
