"""Limits of the service: sizes, counts and times."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segrefine.errors import SettingsError
from segrefine.runtime.files.image import MEGAPIXELS, MOST_MEGAPIXELS

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a service; options of `segrefine serve` have the same names.

    Attributes:
        queue: requests that may wait while every worker is busy; the next is answered with 429.
        workers: requests that are computed at the same time, each on a thread of its own.
        batch: waiting requests that are computed together, at most.
        timeout: seconds from the first byte to the answer; past it, 504.
        body_timeout: seconds in which a body must have come; past it, 408.
        drain_timeout: seconds that accepted requests have to end, once the service was told to stop.
        max_body_mib: size of a request's body, in MiB.
        max_maps_mib: size of the maps of an answer, before they are compressed, in MiB.
        max_megapixels: size of an image, in millions of pixels, up to `MOST_MEGAPIXELS`.
    """

    queue: int = 16
    workers: int = 2
    batch: int = 8
    timeout: float = 60.0
    body_timeout: float = 30.0
    drain_timeout: float = 60.0
    max_body_mib: float = 64.0
    max_maps_mib: float = 256.0
    max_megapixels: float = float(MEGAPIXELS)

    def __post_init__(self) -> None:
        """Raises SettingsError where a bound is outside its range; its subject is the bound's name."""
        for name, fewest in (("queue", 0), ("workers", 1), ("batch", 1)):
            if getattr(self, name) < fewest:
                raise SettingsError(subject=name, expected=f"{fewest} or more", got=getattr(self, name))
        for name in ("timeout", "body_timeout", "drain_timeout", "max_body_mib", "max_maps_mib", "max_megapixels"):
            value, most = getattr(self, name), MOST_MEGAPIXELS if name == "max_megapixels" else math.inf
            if not (0 < value <= most and math.isfinite(value)):
                most_text = f" up to {most}" if most < math.inf else ""
                raise SettingsError(subject=name, expected=f"a number above 0{most_text}", got=f"{value:g}")

    @property
    def body_bytes(self) -> int:
        """Size of a request's body in bytes, at most."""
        return int(self.max_body_mib * MIB)
