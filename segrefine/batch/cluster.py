"""A data set refined by a Ray cluster: an actor for each set of engines, wherever there is room for one.

Ray's actors are driven one item at a time, not through Ray Data: Ray Data retries a block whose actor died without end
(or, told not to, ends the run or drops the block), and does not say which row the actor died of. Here an item that two
actors died of has failed, as an entry like any other, and the rest goes on; nor does this take Arrow and pandas.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from segrefine.batch.journal import Entry
from segrefine.batch.queue import AHEAD, Queue
from segrefine.batch.tools import Tools
from segrefine.batch.worker import Job, attempt, read_item
from segrefine.datasets.items import Item
from segrefine.errors import MissingDependencyError, SegrefineError, ServiceError

LOCAL = "local"
_PATIENCE = 10.0
"""Seconds in which a cluster must take a connection."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Share of its machine that one actor takes.

    Attributes:
        cpus: cores.
        gpus: GPUs; a fraction where several actors share one.
    """

    cpus: float = 1
    gpus: float = 0


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """A context with a Ray cluster.

    Args:
        address: "auto" for the one that runs on this machine or that RAY_ADDRESS names, "local" for one that is
            started here and ends with the context, or that of a cluster: `HOST:PORT`, `ray://HOST:PORT`.

    Raises:
        MissingDependencyError: Ray is not installed.
        ServiceError: there is no cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("Ray is not installed", hint='pip install "segrefine[ray]"') from error
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        hint = "`ray start --head` starts one; --ray local uses this machine alone"
        raise ServiceError(f"there is no Ray cluster at {address}: {error}", hint=hint) from error
    try:
        yield Cluster(ray)
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nobody listens at `HOST:PORT` or `ray://HOST:PORT`; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


class Cluster:
    """A Ray cluster that this process is connected to.

    Args:
        ray: the package.
    """

    def __init__(self, ray: ModuleType) -> None:
        self._ray = ray

    def room(self, share: Share) -> int:
        """Count the actors of that share that its machines hold together."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        needs = {name: need for name, need in (("CPU", share.cpus), ("GPU", share.gpus)) if need}
        return sum(min(int(machine.get(name, 0) / need + 1e-6) for name, need in needs.items()) for machine in machines)

    def refine_all(self, share: Share) -> Callable[[Job, Sequence[Item], int], Iterator[Entry]]:
        """Return the function with which `run_batch` refines on actors of that share."""
        return lambda job, items, workers: _ClusterRun(self._ray, job, share, items).entries(workers)


class Worker:
    """Actor of a cluster: engines and the data set, in a process of its own.

    Two items are in the actor at a time, each in a thread of it: one is read while the other is refined.

    Args:
        job: what to do.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._turn = job, threading.Lock()
        self._reader = ThreadPoolExecutor(1)

    def open(self) -> SegrefineError | None:
        """Opens the data set and the engines, and gives the error where that fails."""
        try:
            self._dataset = self._job.open_dataset()
            self._tools = Tools.open(self._job, self._dataset)
        except SegrefineError as error:
            return error
        return None

    def refine(self, item: Item) -> Entry:
        """Refine an item, and return its journal entry."""
        read = self._reader.submit(read_item, self._job, self._dataset, item)
        with self._turn:
            return attempt(self._job, self._dataset, self._tools, item, read)


class _Actor:
    """An actor of the cluster, and the calls to it that are not answered yet, oldest first.

    Attributes:
        calls: the item of each by its reference; None for the call that opens the engines.
        ready: whether they are open.
    """

    def __init__(self, ray: ModuleType, job: Job, share: Share) -> None:
        self._ray = ray
        options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_restarts": 0, "max_concurrency": AHEAD}
        self._handle = ray.remote(**options)(Worker).remote(job)
        self.calls: dict[Any, Item | None] = {self._handle.open.remote(): None}
        self.ready = False

    @property
    def items(self) -> list[Item]:
        """The items that it holds, oldest first."""
        return [item for item in self.calls.values() if item]

    def feed(self, queue: Queue) -> None:
        """Gives the actor what it may hold of the items that are left."""
        while self.ready and (item := queue.take(self.items)):
            self.calls[self._handle.refine.remote(item)] = item

    def receive(self, call: Any) -> Entry | None:
        """The answer to a call that is ready; raises what Ray does where the actor died."""
        answer: Entry | SegrefineError | None = self._ray.get(call)
        del self.calls[call]
        if isinstance(answer, SegrefineError):
            raise answer
        self.ready = True
        return answer

    def stop(self) -> None:
        """Ends the actor, at once."""
        self._ray.kill(self._handle)


class _ClusterRun:
    """One data set on its way through the actors."""

    def __init__(self, ray: ModuleType, job: Job, share: Share, items: Sequence[Item]) -> None:
        self._ray, self._job, self._share, dataset = ray, job, share, job.open_dataset()
        self._queue = Queue(items, lambda item: dataset.is_done(item, job.output))

    def entries(self, workers: int) -> Iterator[Entry]:
        """Entries of the items, as they are finished; an actor that dies is replaced, and its items are done again."""
        queue, errors = self._queue, self._ray.exceptions
        actors = [self._start() for _ in range(min(workers, len(queue)))]
        crashes = (errors.RayActorError, errors.NodeDiedError, errors.OutOfMemoryError, errors.WorkerCrashedError)
        try:
            while queue or any(actor.items for actor in actors):
                for actor in actors:
                    actor.feed(queue)
                owners = {call: actor for actor in actors for call in actor.calls}
                [call], _ = self._ray.wait(list(owners), num_returns=1)
                actor = owners[call]
                try:
                    if entry := actor.receive(call):
                        yield entry
                except crashes as error:
                    actor.stop()
                    yield from queue.bury(actor.items, str(error))
                    actors[actors.index(actor)] = self._start()
        finally:
            for actor in actors:
                actor.stop()

    def _start(self) -> _Actor:
        return _Actor(self._ray, self._job, self._share)
