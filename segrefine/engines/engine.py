"""Interface of every engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from numpy.typing import NDArray

from segrefine.errors import BackendError, SettingsError
from segrefine.spec import ComponentSpec

if TYPE_CHECKING:
    from typing import Self

EnginePrecision = Literal["fp32", "fp16", "bf16"]
"""What an engine computes in: the precision of the graph, or bfloat16 where the backend can."""


Feeds = Mapping[str, NDArray[Any]]
"""Inputs of a graph by name."""


class Closing(ABC):
    """Context manager for objects that can be closed."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what is held; closing twice is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Engine(Protocol):
    """One graph, ready to run; a context manager that closes itself. Several threads may call it at the same time."""

    @property
    def spec(self) -> ComponentSpec:
        """Return the inputs and outputs of the engine."""
        ...

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name, new arrays as `spec.outputs` describes them.

        Args:
            feeds: exactly the inputs, as `spec.inputs` describes them.
            only: the one output that is wanted; a backend that can leaves out what the others alone need.

        Raises:
            ShapeError: a feed does not fit; the message names the tensor.
            EngineError: the engine is closed, or failed.
        """
        ...

    def close(self) -> None:
        """Gives back what the engine holds; closing twice is fine."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def cut_batch(feeds: Mapping[str, NDArray[Any]], most: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The feeds in parts, along their first axis, of at most `most` samples each; the very arrays where that is all."""
    if len(next(iter(feeds.values()))) <= most:
        yield dict(feeds)
        return
    for first in range(0, len(next(iter(feeds.values()))), most):
        yield {name: values[first : first + most] for name, values in feeds.items()}


def even_parts(count: int, most: int) -> list[slice]:
    """Split a batch of `count` into parts of one size, at most `most`; the last two overlap if it does not divide."""
    size = -(-count // min(count, most))
    return [slice(last - size, last) for last in (min(first + size, count) for first in range(0, count, size))]


MOST_THREADS = 256


def check_threads(threads: int) -> int:
    """`threads`, once they can be had.

    Raises:
        SettingsError: below 1, or so many that starting them would take longer than the work.
    """
    if not 1 <= threads <= MOST_THREADS:
        raise SettingsError(
            subject="threads", expected=f"1 to {MOST_THREADS}", got=threads, hint="take the number of cores, or fewer"
        )
    return threads


def parse_device(device: str) -> tuple[str, int]:
    """Kind and number of a device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises:
        BackendError: there is no such device.
    """
    kind, colon, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not index.isdecimal())):
        raise BackendError(
            subject="device", expected="cpu, cuda or cuda:N", got=repr(device), hint="leave it out for the CPU"
        )
    return kind, int(index or 0)
