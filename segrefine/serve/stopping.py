"""Stopping a computation between two steps: engines that look, before they run, whether anyone still waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from segrefine.engines import Closing, Engine

_thread = threading.local()


class Stopped(Exception):
    """Nobody waits for the result any more."""


@contextmanager
def stoppable(unwanted: Callable[[], bool]) -> Iterator[None]:
    """A context in which this thread's engines raise `Stopped` once `unwanted()` is true."""
    before, _thread.unwanted = getattr(_thread, "unwanted", None), unwanted
    try:
        yield
    finally:
        _thread.unwanted = before


class StoppableEngine(Closing):
    """An engine that raises `Stopped`, instead of running, where the thread's work is no longer wanted.

    Attributes:
        spec: what the engine takes and gives.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self.spec = engine, engine.spec

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name; see `Engine`."""
        unwanted: Callable[[], bool] | None = getattr(_thread, "unwanted", None)
        if unwanted is not None and unwanted():
            raise Stopped
        return self._engine(feeds, only=only)

    def close(self) -> None:
        """Closes the engine."""
        self._engine.close()
