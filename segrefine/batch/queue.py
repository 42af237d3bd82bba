"""Queue of the items of a run that are left to do, and of those that a dead worker held."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator

from segrefine.batch.journal import Entry
from segrefine.datasets.items import Item
from segrefine.errors import EngineError

AHEAD = 2
"""Items that a worker holds at a time: one that it refines, one that it reads meanwhile."""
STARTS = 3
"""Workers that may die before they held any item, in a whole run."""


class Queue:
    """The items that are left, handed out one at a time.

    A worker that dies does not tell which of its items it died of, or whether of any: it may have gone with its
    machine. So none of them has failed by that. Each is done again, alone in its worker, and has failed where that one
    dies too. No item takes more than two workers with it.

    Args:
        items: all that is to be done.
        is_done: whether the results of an item are there.
    """

    def __init__(self, items: Iterable[Item], is_done: Callable[[Item], bool]) -> None:
        self._fresh, self._is_done = deque(items), is_done
        self._again: deque[Item] = deque()
        self._suspects: set[str] = set()
        self._early = 0

    def __len__(self) -> int:
        return len(self._fresh) + len(self._again)

    def take(self, held: Collection[Item]) -> Item | None:
        """The next item for a worker that holds some; None where it must not have another yet, or none is left."""
        if not held and self._again:
            return self._again.popleft()
        alone = any(item.name in self._suspects for item in held)
        return self._fresh.popleft() if self._fresh and len(held) < AHEAD and not alone else None

    def put_back(self, item: Item) -> None:
        """Takes back an item that no worker saw."""
        (self._again if item.name in self._suspects else self._fresh).appendleft(item)

    def bury(self, held: Collection[Item], end: str) -> Iterator[Entry]:
        """Entries of what a dead worker held: what it had finished, and what has failed; the rest is to be done again.

        Args:
            held: its items.
            end: how it ended.

        Raises:
            EngineError: it held none, and was not the first.
        """
        self._early += not held
        if self._early == STARTS:
            message = f"{STARTS} workers died before they began, the last: {end}"
            raise EngineError(message, hint="`segrefine refine` of one image on that machine may show why")
        for item in held:
            if self._is_done(item):
                yield Entry(name=item.name, status="done")  # written, and then gone before it was told
            elif item.name in self._suspects:
                yield Entry(
                    name=item.name, status="failed", error="WorkerDied",
                    message=f"two workers died while they held this image, the second held no other: {end}",
                    hint="out of memory? Take fewer workers, or scale the image down",
                )  # fmt: skip
            else:
                self._suspects.add(item.name)
                self._again.append(item)
