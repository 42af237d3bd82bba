"""What every engine can do, and the names of the backends that make one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from numpy.typing import NDArray

from segrefine.errors import BackendError, SettingsError
from segrefine.spec import ComponentSpec

BACKENDS = ("onnxruntime", "openvino")
"""The backends that `load_engine` knows."""

BUILDERS = (*BACKENDS, "tensorrt", "tensorrt-rtx")
"""The backends that `build_engine` knows."""

EnginePrecision = Literal["fp32", "fp16", "bf16"]
"""What an engine computes in: the precision of the graph, or bfloat16 where the backend can."""


class Closing(ABC):
    """What is a context manager because it can be closed."""

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
    """One graph, ready to run; a context manager that closes itself."""

    @property
    def spec(self) -> ComponentSpec:
        """What the engine takes and gives."""
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


MOST_THREADS = 256


def check_threads(threads: int) -> int:
    """`threads`, once they can be had.

    Raises:
        SettingsError: below 1, or so many that starting them would take longer than the work.
    """
    if not 1 <= threads <= MOST_THREADS:
        raise SettingsError(f"threads is {threads}, expected 1 to {MOST_THREADS}")
    return threads


def unknown_backend(name: str, known: Sequence[str] = BACKENDS) -> BackendError:
    """The error for a backend that is not one of `known`."""
    if name in BUILDERS:
        message = f"segrefine builds engines for {name}, but does not run them yet"
        return BackendError(message, hint=f"take one of: {', '.join(known)}")
    return BackendError(f"there is no backend {name!r}", hint=f"choose one of: {', '.join(known)}")
