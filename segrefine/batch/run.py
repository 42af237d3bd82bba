"""A whole data set refined by several processes, each image for itself: what fails is told, and the run goes on."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from segrefine.batch.journal import Entry, Journal, claimed, write_manifest
from segrefine.batch.worker import AHEAD, Job, serve
from segrefine.datasets.items import Item
from segrefine.errors import EngineError, SegrefineError

Tell = Callable[[Entry, int, int], None]
"""Called with each finished item, how many are finished, and how many there are."""
RefineAll = Callable[[Job, Sequence[Item], int], Iterator[Entry]]
"""Gives an entry for each of some items, as they are finished by so many workers."""
DIED = "WorkerDied"
"""The error of an item whose worker process died of it."""
STARTS = 3
"""Workers that may die before they began, in a whole run."""


def run_batch(
    job: Job, *, workers: int, resume: bool = False, tell: Tell | None = None, refine_all: RefineAll | None = None
) -> dict[str, Any]:
    """What the manifest says, once all items of a data set were refined or failed.

    Results appear one by one, each as a whole. After a kill at any moment `resume` does what is missing, and nothing
    again; items that failed are tried again.

    Args:
        job: what to do.
        workers: processes.
        resume: go on where a run before was stopped.
        tell: told of every item.
        refine_all: what refines; None for processes of this machine. `segrefine.batch.cluster` has another.

    Raises:
        MaskError: there is no data set.
        OutputError: the output folder cannot be written to, is another run's, or is not empty without `resume`.
        SegrefineError: the engines do not open; see `Refiner.from_bundle`.
    """
    began, dataset = time.perf_counter(), job.open_dataset()
    items = dataset.items  # read before anything is written: there may be no data set
    with claimed(job.output, resume=resume):
        journal = Journal(job.output)
        names = [item.name for item in items]
        left = [item for item in items if not dataset.is_done(item, job.output)]
        missing = {item.name: item for item in left}
        for name in names:
            if name not in missing and getattr(journal.entries.get(name), "status", None) != "done":
                journal.add(Entry(name=name, status="done"))  # written, and then killed before it was noted
        kept = len(names) - len(left)
        for number, entry in enumerate((refine_all or refine_here)(job, left, workers), kept + 1):
            if entry.error == DIED and dataset.is_done(missing[entry.name], job.output):
                entry = Entry(name=entry.name, status="done")  # written, and then gone before it was told
            journal.add(entry)
            if tell:
                tell(entry, number, len(names))
        dataset.finish(job.output)
        facts = {"items": len(names), "resumed": kept, "seconds": time.perf_counter() - began, "workers": workers}
        return write_manifest(job.output, names, journal, facts)


class _Worker:
    """A process, the way to it, and the items that it holds, oldest first.

    Attributes:
        pipe: what it sends comes out here.
        items: what it was given and has not answered yet.
        ready: whether its engines are open.
        died: whether it ended by itself.
    """

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of the engines' threads
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(job, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends when the process does
        self.items: deque[Item] = deque()
        self.died = self.ready = False

    def feed(self, left: deque[Item]) -> None:
        """Gives the process what it may hold of the items that are left."""
        while self.ready and left and len(self.items) < AHEAD:
            try:
                self.pipe.send(left[0])
            except OSError:  # it died; the pipe will tell
                return
            self.items.append(left.popleft())

    def receive(self) -> Entry | None:
        """The entry that the process sends, or that of the item that it died of; None where there is neither."""
        try:
            message: Entry | SegrefineError | None = self.pipe.recv()
        except (EOFError, OSError):
            return self._bury()
        if isinstance(message, SegrefineError):
            raise message
        if message is None:
            self.ready = True
        else:
            self.items.popleft()
        return message

    @property
    def exit(self) -> str:
        """How it ended."""
        return f"exit code {self._process.exitcode}"

    def stop(self) -> None:
        """Ends the process, at once."""
        self._process.kill()
        self._process.join()
        self.pipe.close()

    def _bury(self) -> Entry | None:
        self.died = True
        self._process.join()
        if not self.items:
            return None
        hint = "out of memory? Take fewer workers, or scale the image down"
        message = f"the worker process died ({self.exit}) while it held this image"
        return Entry(name=self.items.popleft().name, status="failed", error=DIED, message=message, hint=hint)


def refine_here(job: Job, items: Sequence[Item], workers: int) -> Iterator[Entry]:
    """Entries of the items, by processes of this machine; one that dies is replaced, and its item has failed."""
    left, early = deque(items), 0
    pool = [_Worker(job) for _ in range(min(workers, len(items)))]
    try:
        while left or any(worker.items for worker in pool):
            for worker in pool:
                worker.feed(left)
            ready = wait([worker.pipe for worker in pool])
            for number, worker in enumerate(pool):
                if worker.pipe not in ready:
                    continue
                entry = worker.receive()
                if worker.died:
                    early += not worker.ready
                    if early == STARTS:
                        message = f"{STARTS} worker processes died before they began, the last with {worker.exit}"
                        raise EngineError(message, hint="`segrefine refine` of one image may show why")
                    left.extendleft(reversed(worker.items))
                    worker.stop()
                    pool[number] = _Worker(job)
                if entry is not None:
                    yield entry
    finally:
        for worker in pool:
            worker.stop()
