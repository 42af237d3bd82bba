"""A whole data set refined by several processes, each image for itself: what fails is told, and the run goes on."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import wait
from typing import Any

from segrefine.batch.journal import Entry, Journal, claimed, summarise, write_judgements, write_manifest
from segrefine.batch.options import agree_on_options, describe_options
from segrefine.batch.queue import Queue
from segrefine.batch.worker import Job, serve
from segrefine.datasets.items import Item
from segrefine.datasets.notation import Notation
from segrefine.errors import OutputError, SegrefineError

Tell = Callable[[Entry, int, int], None]
"""Called with each finished item, how many are finished, and how many there are."""
RefineAll = Callable[[Job, Sequence[Item], int], Iterator[Entry]]
"""Gives an entry for each of some items, as they are finished by so many workers."""


def run_batch(
    job: Job, *, workers: int, resume: bool = False, tell: Tell | None = None, refine_all: RefineAll | None = None
) -> dict[str, Any]:
    """Refine all items of a data set, and return the manifest.

    Where there is no place for the manifest or another file of the whole run, as on a full disk, `unwritten` lists why.

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
        OutputError: the output folder cannot be written to, is another run's, is not empty without `resume`, or holds
            results of other options.
        SegrefineError: the engines do not open; see `Refiner.from_bundle`.
    """
    began = time.perf_counter()
    job = job.with_notation()
    dataset = job.open_dataset()
    items = dataset.items  # read before anything is written: there may be no data set
    options = describe_options(job)
    with claimed(job.output, resume=resume):
        left = [item for item in items if not dataset.is_done(item, job.output)]
        kept = len(items) - len(left)
        agree_on_options(job, options, begun=kept > 0)
        journal = Journal(job.output)
        _note_written(journal, {item.name for item in items} - {item.name for item in left})
        for number, entry in enumerate((refine_all or refine_here)(job, left, workers), kept + 1):
            journal.add(entry)
            if tell:
                tell(entry, number, len(items))
        entries = [journal.entries[item.name] for item in items if item.name in journal.entries]
        facts = {"items": len(items), "resumed": kept, "seconds": time.perf_counter() - began, "workers": workers}
        return _conclude(job, dataset, entries, {**facts, "options": options})


def _note_written(journal: Journal, names: Iterable[str]) -> None:
    """Notes the items whose results were written by a run that was killed before it noted them."""
    for name in names:
        if getattr(journal.entries.get(name), "status", None) != "done":
            journal.add(Entry(name=name, status="done"))


def _conclude(job: Job, dataset: Notation, entries: Sequence[Entry], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes what belongs to the whole run, and gives what the manifest says, even where there is no place for it."""
    values = summarise(entries, facts) | asdict(dataset.pass_over()) | {"unwritten": []}
    steps = [partial(dataset.finish, job.output), partial(write_manifest, job.output, values)]
    if job.guard:
        steps.insert(0, partial(write_judgements, job.output, entries))
    for step in steps:
        try:
            step()
        except OutputError as error:
            values["unwritten"].append(str(error))
    return values


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

    def feed(self, queue: Queue) -> None:
        """Gives the process what it may hold of the items that are left."""
        while self.ready and (item := queue.take(self.items)):
            try:
                self.pipe.send(item)
            except OSError:  # it died; the pipe will tell
                queue.put_back(item)
                return
            self.items.append(item)

    def receive(self) -> Entry | None:
        """The entry that the process sends; None where its engines are open now, or it died."""
        try:
            message: Entry | SegrefineError | None = self.pipe.recv()
        except (EOFError, OSError):
            self.died = True
            self._process.join()
            return None
        if isinstance(message, SegrefineError):
            raise message
        if message is None:
            self.ready = True
        else:
            self.items.popleft()
        return message

    @property
    def exit(self) -> str:
        """Return how the run ended."""
        return f"exit code {self._process.exitcode}"

    def stop(self) -> None:
        """Ends the process, at once."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


class Pool:
    """Processes of this machine that refine items; a context manager that ends them.

    They start with the first items, and wait for more. One that dies is replaced, and its items are done again.

    Args:
        job: what to do.
        workers: processes, at most.
    """

    def __init__(self, job: Job, workers: int) -> None:
        self._job, self._most = job, workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()

    def refine(self, items: Sequence[Item]) -> Iterator[Entry]:
        """Refine items, and give the entry of each as it is finished."""
        dataset = self._job.open_dataset()
        queue, pool = Queue(items, lambda item: dataset.is_done(item, self._job.output)), self._workers
        while len(pool) < min(self._most, len(queue)):
            self._start(len(pool))
        while queue or any(worker.items for worker in pool):
            for worker in pool:
                worker.feed(queue)
            ready = wait([worker.pipe for worker in pool])
            for number, worker in enumerate(pool):
                if worker.pipe not in ready:
                    continue
                if entry := worker.receive():
                    yield entry
                if worker.died:
                    worker.stop()
                    yield from queue.bury(worker.items, worker.exit)
                    self._start(number)

    def _start(self, number: int) -> None:
        """Start the worker with that number; a dead one gives its place."""
        with _uninterrupted():
            self._workers[number : number + 1] = [_Worker(self._job)]


def refine_here(job: Job, items: Sequence[Item], workers: int) -> Iterator[Entry]:
    """Entries of the items, by processes of this machine."""
    with Pool(job, workers) as pool:
        yield from pool.refine(items)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A context in which Ctrl-C waits for its end; for processes that are started in it, it never comes.

    Their parent is told, and ends them.
    """
    caught: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    masks = hasattr(signal, "pthread_sigmask")  # Windows has none; workers ignore Ctrl-C there
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()  # is inherited
    if is_main:  # and here another thread may take the signal
        signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_main:
            signal.signal(signal.SIGINT, handler)
    if caught:
        raise KeyboardInterrupt
