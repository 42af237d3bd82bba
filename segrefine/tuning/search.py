"""Search for the settings that refine a model's masks best: a coordinate search over few values of few settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from segrefine.engines import Engine
from segrefine.runtime.pipeline import Refiner
from segrefine.settings import G4SegSettings
from segrefine.spec import ComponentSpec

if TYPE_CHECKING:
    from typing import Self

Grid = Mapping[str, tuple[Any, ...]]
"""Values by setting."""
GRID: Grid = {
    "text_weight": (1.0, 2.0, 4.0, 8.0, 16.0),
    "prior_weight": (0.1, 0.2, 0.38, 0.6, 1.0),
    "text_effect": (0.0, 1.0),
    "text_threshold": (0.0, 0.2, 0.43, 0.6),
    "text_spread": (300.0, 1000.0, 3000.0),
    "temperature": (1.0, 2.1, 4.0),
    "worth_range": ((0.1, 0.5), (0.2, 1.0), (0.4, 2.0), (2.0, 5.0)),
    "likeness_range": ((0.5, 0.7), (0.9, 1.0)),
    "effect_range": ((0.007, 0.014), (0.015, 0.03), (0.025, 0.045)),
}
"""What is tried, in this order. The value that a bundle has is always tried too."""
ROUNDS = 2
LEAST_GAIN = 5e-4
"""Mean IoU that another value must gain to be taken."""
_LARGEST_MEMORY = 2**30
_CHEAP = ("alignment",)
"""Components that depend on the settings that are searched, and take little time."""

Score = Callable[[G4SegSettings], float]


def search_settings(base: G4SegSettings, score: Score, grid: Grid = GRID) -> G4SegSettings:
    """The best settings that a coordinate search finds, starting from some.

    It changes one setting at a time, keeps the best value, and goes round until nothing improves, `ROUNDS` times at
    most.

    Args:
        base: where the search starts.
        score: mean IoU of settings.
        grid: values to try by setting.
    """
    best, reached = base, score(base)
    for _ in range(ROUNDS):
        start = best
        for name in grid:
            for candidate in list(vary(best, name, grid[name])):
                if (found := score(candidate)) > reached + LEAST_GAIN:
                    best, reached = candidate, found
        if best == start:
            break
    return best


def vary(base: G4SegSettings, name: str, values: tuple[Any, ...]) -> Iterator[G4SegSettings]:
    """The settings with other values for one of them; none where that setting has no effect."""
    needs = {
        "text_weight": base.asks_text,
        "text_effect": base.asks_text,
        "text_spread": base.asks_text,
        "text_threshold": base.asks_text,
        "worth_range": base.measures_worth,
        "likeness_range": base.measures_worth,
        "effect_range": base.measures_worth,
    }
    if needs.get(name, True):
        yield from (base.with_changes({name: value}) for value in values if value != getattr(base, name))


def count_trials(base: G4SegSettings, grid: Grid = GRID) -> int:
    """The most settings that a search from `base` scores."""
    return 1 + ROUNDS * sum(len(list(vary(base, name, values))) for name, values in grid.items())


def remember(refiner: Refiner) -> Refiner:
    """The refiner with engines that compute nothing twice, so that trying other settings costs little.

    The settings that are searched change what is made of the diffusion model's answers, and not what it is asked.
    The refiner needs no closing; the engines belong to the one that is given.
    """
    memory = _Memory()
    engines: dict[str, Engine] = {
        name: engine if name in _CHEAP else _Remembering(engine, name, memory)
        for name, engine in refiner.engines.items()
    }
    return refiner.derive(engines)


@dataclass
class _Memory:
    """Outputs of engines by what they were given. Once it is full it takes nothing new."""

    outputs: dict[bytes, dict[str, NDArray[Any]]] = field(default_factory=dict)
    size: int = 0

    def add(self, key: bytes, outputs: Mapping[str, NDArray[Any]]) -> None:
        size = sum(values.nbytes for values in outputs.values())
        if self.size + size <= _LARGEST_MEMORY:
            self.outputs[key] = {name: values.copy() for name, values in outputs.items()}
            self.size += size


class _Remembering:
    """An engine that gives again what it gave for the same feeds."""

    def __init__(self, engine: Engine, name: str, memory: _Memory) -> None:
        self._engine, self._name, self._memory = engine, name, memory

    @property
    def spec(self) -> ComponentSpec:
        return self._engine.spec

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        digest = hashlib.blake2b(repr((self._name, only)).encode())
        for name, values in sorted(feeds.items()):
            digest.update(repr((name, values.shape, values.dtype.str)).encode())
            digest.update(values.tobytes())
        key = digest.digest()
        if key not in self._memory.outputs:
            found = self._engine(feeds, only=only)
            self._memory.add(key, found)
            return found
        return {name: values.copy() for name, values in self._memory.outputs[key].items()}

    def close(self) -> None:
        """Do nothing: the engine belongs to another refiner."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
