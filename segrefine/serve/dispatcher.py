"""The bounded queue between the event loop and the workers. All of its state belongs to the loop's thread.

A request takes a place before its body is read, so that an overloaded service turns requests away at once and holds
few bodies. A worker that comes free takes the request that waits longest, and with it those that wait and can be
computed together with it: a lone request never waits for company.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from segrefine.runtime.batching import Company
from segrefine.serve.limits import Limits
from segrefine.serve.metrics import Metrics
from segrefine.serve.models import ServedModel
from segrefine.serve.problem import Problem
from segrefine.serve.stopping import Stopped
from segrefine.serve.work import Answer, Work


@dataclass(eq=False)
class QueuePlace:
    """A place in the service, held by one request from its first byte until nothing of it runs any more.

    Attributes:
        dispatcher: that gave it.
        running: whether a worker has the request; the place is then the worker's to give back.
        given_back: whether the next request was let in.
    """

    dispatcher: Dispatcher
    running: bool = False
    given_back: bool = False

    def leave(self) -> None:
        """The request needs no answer any more, or has it."""
        if not self.running:
            self.give_back()

    def give_back(self) -> None:
        """Lets the next request in; doing it twice is fine."""
        if not self.given_back:
            self.given_back = True
            self.dispatcher.left()


@dataclass(eq=False, kw_only=True)
class _Entry:
    work: Work
    model: ServedModel[Any]
    company: Company | None
    place: QueuePlace
    answer: asyncio.Future[Answer]


class Dispatcher:
    """Takes requests in, and hands them to workers.

    Attributes:
        draining: whether requests are turned away because the service is about to stop.
        warm: whether every model has computed something.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.draining, self.warm = False, False
        self._limits, self._metrics = limits, metrics
        self._pool = ThreadPoolExecutor(limits.workers, "worker")
        self._waiting: deque[_Entry] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = self._held = 0
        self._seconds = 1.0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def ready(self) -> bool:
        """Return whether requests are taken."""
        return self.warm and not self.draining

    def admit(self) -> QueuePlace:
        """A place for a request that has just begun; whoever has it calls `QueuePlace.leave` in the end, come what may.

        Raises:
            Problem: the service is not ready, or full.
        """
        if self.draining:
            raise self._turned_away(503, "draining", "a service that stays", "one that is about to stop", 1)
        if not self.warm:
            raise self._turned_away(503, "warming_up", "a service that is warm", "one that has just started", 1)
        most = self._limits.queue + self._limits.workers
        if self._held >= most:
            wait = math.ceil(min(60.0, max(1.0, self._seconds * self._held / self._limits.workers)))
            raise self._turned_away(
                429, "queue_full", f"at most {self._limits.queue} requests waiting (--queue)", "one more", wait
            )
        self._held += 1
        self._empty.clear()
        self._count()
        return QueuePlace(self)

    async def compute(self, model: ServedModel[Any], work: Work, place: QueuePlace) -> Answer:
        """The answer to a request. Cancelling the call takes it out of the queue, or stops it at its next step.

        Raises:
            Problem: the request's time is up.
            Exception: what the model made of it.
        """
        loop = asyncio.get_running_loop()
        entry = _Entry(work=work, model=model, company=None, place=place, answer=loop.create_future())
        try:
            if self._busy >= self._limits.workers:  # only who waits can find company
                entry.company = model.company(work)
            self._waiting.append(entry)
            self._hand_out()
            return await asyncio.wait_for(entry.answer, max(0.0, work.deadline - time.monotonic()))
        except (asyncio.TimeoutError, Stopped):
            raise self._timed_out() from None
        finally:
            work.abandoned.set()
            if entry in self._waiting:
                self._waiting.remove(entry)

    async def run_aside(self, model: ServedModel[Any]) -> None:
        """Warms a model up on a worker."""
        await asyncio.get_running_loop().run_in_executor(self._pool, model.warm_up)

    async def drain(self) -> bool:
        """Turns requests away from now on; True once every accepted one has ended, False where time ran out."""
        self.draining = True
        self._metrics.ready.set(0)
        try:
            await asyncio.wait_for(self._empty.wait(), self._limits.drain_timeout)
        except asyncio.TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Ends the workers; waits for what they run."""
        for entry in self._waiting:
            entry.work.abandoned.set()
        self._pool.shutdown(wait=True)

    def left(self) -> None:
        """A place was given back; see `QueuePlace`."""
        self._held -= 1
        if not self._held:
            self._empty.set()
        self._count()

    def _hand_out(self) -> None:
        """Gives free workers what waits."""
        while self._waiting and self._busy < self._limits.workers:
            first = self._waiting.popleft()
            batch = [first, *self._company(first)]
            for entry in batch:
                entry.place.running = True
            self._busy += 1
            task = asyncio.ensure_future(self._run(batch))
            self._tasks.add(task)  # the loop itself would let go of it
            task.add_done_callback(self._go_on)
        self._count()

    def _go_on(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._hand_out()

    def _company(self, first: _Entry) -> list[_Entry]:
        """Takes out of the queue, in its order, what can be computed together with `first` and fits beside it."""
        if first.company is None:
            return []
        taken, share = list[_Entry](), first.company.share
        for entry in [each for each in self._waiting if each.model is first.model]:
            if len(taken) + 1 >= self._limits.batch:
                break
            its = entry.company
            if its and its.key == first.company.key and share + its.share <= 1:
                share += its.share
                taken.append(entry)
                self._waiting.remove(entry)
        return taken

    async def _run(self, batch: Sequence[_Entry]) -> None:
        began = time.perf_counter()
        name, works = batch[0].model.served.name, [entry.work for entry in batch]
        self._metrics.saw_batch(name, len(batch))
        answers: Sequence[Answer | BaseException]
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._pool, batch[0].model.run, works)
        except BaseException as error:  # who waits must hear of it, whatever it is
            answers = [error] * len(batch)
        finally:
            self._busy -= 1
            for entry in batch:
                entry.place.give_back()
        spent = time.perf_counter() - began
        self._seconds += 0.2 * (spent / len(batch) - self._seconds)
        for entry, answer in zip(batch, answers, strict=True):
            if entry.answer.done():  # nobody waits any more
                continue
            if isinstance(answer, BaseException):
                entry.answer.set_exception(answer)
            else:
                self._metrics.saw_stages(name, {"wait": began - entry.work.queued, **answer.seconds})
                entry.answer.set_result(answer)

    def _count(self) -> None:
        self._metrics.running.set(min(self._held, self._limits.workers))
        self._metrics.waiting.set(max(0, self._held - self._limits.workers))

    def _timed_out(self) -> Problem:
        seconds = self._limits.timeout
        return Problem(504, "timeout", f"an answer within {seconds:g} s (--timeout)", "none by then",
                       "send a smaller image or fewer phrases, raise --timeout, or try again later")  # fmt: skip

    def _turned_away(self, status: int, code: str, expected: str, got: str, wait: int) -> Problem:
        self._metrics.saw_rejection(code)
        hint = f"try again after {wait} s, as Retry-After says; segrefine.Client does so by itself"
        return Problem(status, code, expected, got, hint, {"Retry-After": str(wait)})
