"""Arrays that a GPU still has: what one engine gave and another takes need not be sent there again."""

from __future__ import annotations

import weakref
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

Copy = TypeVar("Copy")

LEAST_BYTES = 1 << 20
"""Arrays below this size are not kept: the features of an image are megabytes, latents are not. Not measured."""


class Resident(Generic[Copy]):
    """GPU copies of arrays that engines returned, found by the array itself while it is alive.

    An array that is kept becomes read-only: what was changed on the host would be stale on the device.
    """

    def __init__(self) -> None:
        self._copies: dict[int, Copy] = {}

    def keep(self, array: NDArray[Any], copy: Copy) -> None:
        """Remembers what the device has of an array."""
        array.flags.writeable = False
        self._copies[id(array)] = copy
        weakref.finalize(array, self._copies.pop, id(array), None).atexit = False

    def find(self, array: NDArray[Any]) -> Copy | None:
        """Find the device's copy of this very array, not of an equal one; None if there is none."""
        return self._copies.get(id(array))
