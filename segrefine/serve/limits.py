"""What the service lets in, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segrefine.errors import SettingsError
from segrefine.runtime.image import MEGAPIXELS

MIB = 2**20
_OPTIONS = {
    "timeout": "--timeout", "body_timeout": "--body-timeout", "drain": "--drain-timeout", "body_mib": "--max-body-mib",
    "maps_mib": "--max-maps-mib", "megapixels": "--max-megapixels",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a service; each is an option of `segrefine serve`, whose name messages tell.

    Attributes:
        queue: requests that may wait while every worker is busy; the next is answered with 429.
        workers: requests that are computed at the same time, each on a thread of its own.
        batch: waiting requests that are computed together, at most.
        timeout: seconds from the first byte to the answer; past it, 504.
        body_timeout: seconds in which a body must have come; past it, 408.
        drain: seconds that accepted requests have to end, once the service was told to stop.
        body_mib: size of a request's body, in MiB.
        maps_mib: size of the maps of an answer, before they are compressed, in MiB.
        megapixels: size of an image, in millions of pixels, at most what `load_image` takes.
    """

    queue: int = 16
    workers: int = 2
    batch: int = 8
    timeout: float = 60.0
    body_timeout: float = 30.0
    drain: float = 60.0
    body_mib: float = 64.0
    maps_mib: float = 256.0
    megapixels: float = float(MEGAPIXELS)

    def __post_init__(self) -> None:
        """Raises SettingsError where a bound is outside its range."""
        if self.queue < 0 or min(self.workers, self.batch) < 1:
            raise SettingsError("expected a queue of 0 or more, and workers and a batch of 1 or more")
        for name, option in _OPTIONS.items():
            value, most = getattr(self, name), MEGAPIXELS if name == "megapixels" else math.inf
            if not (0 < value <= most and math.isfinite(value)):
                most_text = f" up to {MEGAPIXELS}" if name == "megapixels" else ""
                raise SettingsError(f"{option}: expected a number above 0{most_text}, got {value:g}")

    @property
    def body_bytes(self) -> int:
        """Size of a request's body in bytes, at most."""
        return int(self.body_mib * MIB)
