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
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from segrefine.batch.journal import Entry
from segrefine.batch.worker import AHEAD, Job, attempt, read_item
from segrefine.datasets.items import Item
from segrefine.errors import EngineError, MissingDependencyError, SegrefineError, ServiceError
from segrefine.runtime.pipeline import Refiner

LOCAL = "local"
_LIVES = 2
"""Actors that may die of an item before it has failed: the first may have gone with its machine."""
_PATIENCE = 10.0
"""Seconds in which a cluster must take a connection."""
_STARTS = 3
"""Actors that may die before they began, in a whole run."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one actor takes of its machine.

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
        """How many actors of that share its machines hold together."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        needs = {name: need for name, need in (("CPU", share.cpus), ("GPU", share.gpus)) if need}
        return sum(min(int(machine.get(name, 0) / need + 1e-6) for name, need in needs.items()) for machine in machines)

    def refine_all(self, share: Share) -> Callable[[Job, Sequence[Item], int], Iterator[Entry]]:
        """What `run_batch` takes to refine with actors of that share."""
        return lambda job, items, workers: _Run(self._ray, job, share, deque(items)).entries(workers)


class Worker:
    """What an actor is: engines and the data set, in a process of its own.

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
            self._dataset, self._refiner = self._job.open_dataset(), Refiner.from_bundle(**self._job.engines)
        except SegrefineError as error:
            return error
        return None

    def refine(self, item: Item) -> Entry:
        """What became of an item."""
        read = self._reader.submit(read_item, self._dataset, item)
        with self._turn:
            return attempt(self._job, self._dataset, self._refiner, item, read)


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

    def feed(self, left: deque[Item]) -> None:
        """Gives the actor what it may hold of the items that are left."""
        while self.ready and left and len(self.calls) < AHEAD:
            item = left.popleft()
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


class _Run:
    """One data set on its way through the actors."""

    def __init__(self, ray: ModuleType, job: Job, share: Share, left: deque[Item]) -> None:
        self._ray, self._job, self._share, self._left = ray, job, share, left
        self._dataset, self._deaths, self._starts = job.open_dataset(), Counter[str](), 0

    def entries(self, workers: int) -> Iterator[Entry]:
        """Entries of the items, as they are finished; an actor that dies is replaced, and its items have another go."""
        actors = [self._start() for _ in range(min(workers, len(self._left)))]
        errors = self._ray.exceptions
        crashes = (errors.RayActorError, errors.NodeDiedError, errors.OutOfMemoryError, errors.WorkerCrashedError)
        try:
            while self._left or any(any(actor.calls.values()) for actor in actors):
                for actor in actors:
                    actor.feed(self._left)
                owners = {call: actor for actor in actors for call in actor.calls}
                [call], _ = self._ray.wait(list(owners), num_returns=1)
                actor = owners[call]
                try:
                    entry = actor.receive(call)
                except crashes as error:
                    actor.stop()
                    yield from self._bury(actor, error)
                    actors[actors.index(actor)] = self._start()
                else:
                    if entry is not None:
                        yield entry
        finally:
            for actor in actors:
                actor.stop()

    def _start(self) -> _Actor:
        return _Actor(self._ray, self._job, self._share)

    def _bury(self, actor: _Actor, error: Exception) -> Iterator[Entry]:
        """Entries of what a dead actor had finished, or what died of it too often; the rest is left to do again."""
        if not actor.ready:
            self._starts += 1
            if self._starts >= _STARTS:
                message = f"{_STARTS} actors died before they began: {error}"
                raise EngineError(message, hint="`segrefine refine` of one image on such a machine may show why")
        held = [item for item in actor.calls.values() if item is not None]
        lost = deque(item for item in held if not self._dataset.is_done(item, self._job.output))
        for item in held:
            if item not in lost:
                yield Entry(name=item.name, status="done")  # written, and then gone before it was told
        if lost:
            self._deaths[lost[0].name] += 1
            if self._deaths[lost[0].name] >= _LIVES:
                yield Entry(
                    name=lost.popleft().name, status="failed", error="WorkerDied",
                    message=f"{_LIVES} actors died while they held this image: {error}",
                    hint="out of memory? Give each actor more cores, so that there are fewer; or scale the image down",
                )  # fmt: skip
        self._left.extendleft(reversed(lost))
