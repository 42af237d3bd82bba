"""One process of a batch. It opens the engines once, then reads, refines and writes item after item."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

from PIL import Image

from segrefine.batch.apart import write_apart
from segrefine.batch.journal import Entry, Judgement
from segrefine.batch.tools import Tools
from segrefine.datasets.items import Item, LabelledMask, Pixels, Reading, read_image, turn_of
from segrefine.datasets.notation import Notation, ReadingOptions, select_masks
from segrefine.datasets.opening import check_options, detect_notation, place_of
from segrefine.engines import usable_cores
from segrefine.errors import SegrefineError
from segrefine.runtime.engine_set import PipelineSetup
from segrefine.runtime.files.image import MEGAPIXELS
from segrefine.runtime.files.output import save_cutout
from segrefine.runtime.refinement import Refinement
from segrefine.storage import output_errors

Read = tuple[Pixels, Reading]
CUTOUTS = "cutouts"
"""The folder of the output that has the objects as RGBA pictures."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A data set, the model that refines it, and where the results go.

    Attributes:
        source: a folder, or a COCO JSON.
        images: folder of a COCO JSON's images; None for the one beside it.
        output: folder of the results.
        setup: what opens the refiner; its threads are those of each process.
        seed: of the noise, of every image alike.
        guard: whether changes that cannot be trusted are undone.
        crop: whether small objects are refined in a crop around them.
        alone: whether each mask is refined for itself, and none competes with others.
        reading: how the data set is read, where its files do not say so themselves.
        notation: of the data set; None to find out.
        growing: whether files are still coming: the data set is opened again for each image.
        max_megapixels: largest size of an image that is read.
        cutout: whether the objects are also written as RGBA pictures, to the folder `cutouts`.
    """

    source: Path
    images: Path | None
    output: Path
    setup: PipelineSetup
    seed: int = 0
    guard: bool = True
    crop: bool = True
    alone: bool = False
    reading: ReadingOptions = field(default_factory=ReadingOptions)
    notation: type[Notation] | None = None
    growing: bool = False
    cutout: bool = False
    max_megapixels: float = MEGAPIXELS

    @property
    def coarse_masks(self) -> Path:
        """Return the folder of the masks that are refined: in the data set, or the one that `reading` names."""
        return Path(self.reading.coarse) if self.reading.coarse else self.source

    def with_threads(self, threads: int) -> Job:
        """The same with so many threads in each process."""
        engines = replace(self.setup.engines, threads=threads)
        return replace(self, setup=replace(self.setup, engines=engines))

    def share_cores(self, workers: int) -> Job:
        """The same with the cores that this one may use shared among processes, where nobody named their threads."""
        return self.with_threads(self.setup.engines.threads or max(1, usable_cores() // workers))

    def with_notation(self) -> Job:
        """The same with the notation of the data set found, so that no worker looks for it.

        Raises:
            MaskError: there is no data set.
        """
        place = place_of(self.source, self.images, self.reading)
        found = self.notation or detect_notation(place)
        check_options(place, [found])
        return replace(self, notation=found)

    def open_dataset(self) -> Notation:
        """The data set.

        Raises:
            MaskError: there is none.
        """
        place = place_of(self.source, self.images, self.reading)
        return (self.notation or detect_notation(place))(place)


def serve(job: Job, pipe: Connection) -> None:
    """Refines the items that come through the pipe, and sends an `Entry` for each, in order, until it is killed.

    The next item is read while the previous one is refined. An error of an item is its entry, and no error of the run.
    Sent first: None once the engines are open, or the error why they are not.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # --max-megapixels has the say on sizes
    if os.name == "nt":  # elsewhere the parent has blocked it, see `_uninterrupted`
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        dataset = job.open_dataset()
        tools = Tools.open(job, dataset)
    except SegrefineError as error:
        pipe.send(error)
        return
    pipe.send(None)
    waiting: deque[tuple[Item, Future[Read]]] = deque()
    with tools, ThreadPoolExecutor(1) as reader:
        while True:
            while not waiting or pipe.poll():
                item = pipe.recv()
                if job.growing:
                    dataset = job.open_dataset()
                waiting.append((item, reader.submit(read_item, job, dataset, item)))
            pipe.send(attempt(job, dataset, tools, *waiting.popleft()))


def _end_with_parent() -> None:
    """Ends this process as soon as the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def read_item(job: Job, dataset: Notation, item: Item) -> Read:
    """The image of an item and its masks; raises what is wrong with them."""
    image = read_image(item, job.max_megapixels)
    return image, select_masks(dataset.read(item, image), item)


def attempt(job: Job, dataset: Notation, tools: Tools, item: Item, read: Future[Read]) -> Entry:
    """Refine an item and return its entry. Any error of the item is recorded, and the next item follows."""
    began = time.perf_counter()
    try:
        image, reading = read.result()
        reading, made, refined = tools.make_masks(job, item, image, reading)
        results = [result for _, result in refined]
        if job.cutout:  # first, since an image is done once its masks are there
            _write_cutout(job.output / CUTOUTS / f"{item.name}.png", image, results)
        if job.alone:
            write_apart(item, made, job.output)
        dataset.write(item, made, (image.shape[0], image.shape[1]), job.output)
    except Exception as error:  # of one image among thousands
        hint = error.hint if isinstance(error, SegrefineError) else None
        return Entry(
            name=item.name, status="failed", seconds=time.perf_counter() - began,
            error=type(error).__name__, message=str(error), hint=hint,
        )  # fmt: skip
    return Entry(
        name=item.name, status="done", seconds=time.perf_counter() - began,
        masks=len(reading.masks), left=reading.left, unusable=tuple(reading.unusable), turned=turn_of(item),
        kept_coarse=sum(result.kept_coarse for result in results),
        kept_partly=sum(0 < result.kept_share < 1 for result in results),
        judged=tuple(_judgements(refined)) if job.guard and results else (),
    )  # fmt: skip


def _write_cutout(file: Path, image: Pixels, results: Sequence[Refinement]) -> None:
    """Write the objects of an image on a transparent background; nothing where there is no object."""
    if not results:
        return
    with output_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    save_cutout(file, image, [each.probability for each in results])


def _judgements(refined: Sequence[tuple[LabelledMask, Refinement]]) -> Iterator[Judgement]:
    """Yield the guard's verdict on each mask of an item that was refined."""
    for mask, result in refined:
        assert result.confidence is not None and result.confidence_threshold is not None  # the guard looked at all
        yield Judgement(
            label=mask.label, annotation=mask.annotation, confidence=round(result.confidence, 4),
            confidence_threshold=round(result.confidence_threshold, 4), kept_share=round(result.kept_share, 4),
            kept_coarse=result.kept_coarse,
        )  # fmt: skip
