"""One accepted request on its way through the service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from segrefine.serve.inputs import Pictures
from segrefine.serve.parameters import Parameters
from segrefine.settings import Settings

Media = Literal["json", "png", "tensors"]
Tell = Callable[[str, float], None]
"""Called, on a worker's thread, with the stage that ended and the share of the work that is behind, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer of a model.

    Attributes:
        values: the JSON object, but for what the service adds. For a PNG its `warnings` alone; for tensors also
            `tensors`, the arrays by name with an axis of one image in front.
        picture: the PNG, where one was asked for.
        seconds: time of each stage.
    """

    values: Mapping[str, Any]
    picture: bytes | None
    seconds: Mapping[str, float]


@dataclass(kw_only=True, eq=False)
class Work:
    """Request to a model, which is dropped if nobody waits for it.

    Attributes:
        pictures: as they came.
        parameters: of the method.
        settings: the model's settings with the request's changes.
        media: what the answer is written as.
        deadline: on `time.monotonic`'s clock.
        tell: told of every stage.
        abandoned: set when nobody waits any more.
        queued: when it began to wait, on `time.perf_counter`'s clock.
    """

    pictures: Pictures
    parameters: Parameters
    settings: Settings
    media: Media
    deadline: float
    tell: Tell | None = None
    abandoned: threading.Event = field(default_factory=threading.Event)
    queued: float = field(default_factory=time.perf_counter)

    @property
    def unwanted(self) -> bool:
        """Return whether nobody waits for the answer."""
        return self.abandoned.is_set() or time.monotonic() > self.deadline
