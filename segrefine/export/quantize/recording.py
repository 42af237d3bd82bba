"""Engines that keep what they are fed: the loop's own inputs, on which ranges are measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segrefine.engines import Closing, Engine
from segrefine.engines.engine import Feeds

Item = TypeVar("Item")
MOST_FEEDS = 48
"""Samples on which ranges are measured, at most."""


class Recording(Closing):
    """An engine that keeps copies of all its inputs.

    Attributes:
        spec: the engine's.
        feeds: the inputs of every call, by name.
    """

    def __init__(self, engine: Engine) -> None:
        self.spec, self._engine = engine.spec, engine
        self.feeds: list[Feeds] = []

    def __call__(self, feeds: Feeds, *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """Return the engine's outputs."""
        self.feeds.append({name: np.array(values) for name, values in feeds.items()})
        return self._engine(feeds, only=only)

    def close(self) -> None:
        """Closes the engine."""
        self._engine.close()


def single_samples(calls: Sequence[Feeds]) -> list[Feeds]:
    """Samples of all calls, one in each of the results; `MOST_FEEDS` at most, evenly from all of them."""
    rows = [
        {name: values[row : row + 1] for name, values in feeds.items()}
        for feeds in calls
        for row in range(len(next(iter(feeds.values()))))
    ]
    return pick_evenly(rows, MOST_FEEDS)


def pick_evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Pick `most` of the items, or all of fewer, evenly from the first to the last."""
    return [items[place] for place in np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)]
