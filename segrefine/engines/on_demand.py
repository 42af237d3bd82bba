"""Engines for little memory: of the large ones, only the one in use is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from numpy.typing import NDArray

from segrefine.engines.engine import Closing, Engine
from segrefine.errors import EngineError
from segrefine.spec import ComponentSpec

_LOGGER = logging.getLogger(__name__)


class Room:
    """Place for one loaded engine, which the next one takes over."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._owner: OnDemand | None = None
        self._engine: Engine | None = None

    def open(self, owner: OnDemand) -> Engine:
        """The engine of `owner`, loaded if another one was here. The caller holds the lock."""
        if self._engine is None or self._owner is not owner:
            self._clear()
            _LOGGER.debug("loading %s", owner.spec.name)
            self._owner, self._engine = owner, owner.load()
        return self._engine

    def leave(self, owner: OnDemand) -> None:
        """Close the engine of `owner`, if it is the one that is here. The caller holds the lock."""
        if self._owner is owner:
            self._clear()

    def _clear(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._owner = self._engine = None


class OnDemand(Closing):
    """An engine that is loaded when it is called, and closed when another one of its room is.

    Several threads may call it, but of a room only one computes at a time.

    Attributes:
        spec: what the engine takes and gives.
        load: loads the engine.
    """

    def __init__(self, spec: ComponentSpec, load: Callable[[], Engine], room: Room) -> None:
        self.spec, self.load = spec, load
        self._room, self._closed = room, False

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name; see `Engine`.

        Raises:
            EngineError: it is closed, does not load, or failed.
        """
        with self._room.lock:
            if self._closed:
                raise EngineError("the engine is closed", subject=self.spec.name)
            return self._room.open(self)(feeds, only=only)

    def close(self) -> None:
        """Closes the engine, if it is loaded."""
        with self._room.lock:
            self._closed = True
            self._room.leave(self)
