"""The memory of an engine's tensors, on the host and on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.engines.cuda import DeviceCopy, Gpu
from segrefine.engines.resident import LEAST_BYTES


class Buffer:
    """The memory of one tensor, on the host and on the device, that grows as needed."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._address, self._pinned = gpu, 0, np.empty(0, np.uint8)
        self._view: NDArray[Any] = self._pinned

    def prepare(self, shape: tuple[int, ...], dtype: str) -> int:
        """Make room for a tensor of this shape; its address on the device."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > len(self._pinned):
            self.close()
            pinned = self._gpu.pinned(size)
            try:
                self._address = self._gpu.allocate(size)
            except Exception:
                self._gpu.unpin(pinned)
                raise
            self._pinned = pinned
        self._view = self._pinned[:size].view(dtype).reshape(shape)
        return self._address

    def upload(self, values: NDArray[Any]) -> int:
        """Queue the copy of an array to the device; its address there. What the device still has is not sent again."""
        self.prepare(values.shape, values.dtype.name)
        if copy := self._gpu.resident.find(values):
            self._gpu.copy(self._address, copy.address, values.nbytes)
            return self._address
        self._view[...] = values
        self._gpu.upload(self._address, self._pinned[: self._view.nbytes])
        return self._address

    def download(self) -> DeviceCopy | None:
        """Queue the copy of the tensor to the host. A large one also gets a copy on the device, for the next engine."""
        size = self._view.nbytes
        self._gpu.download(self._pinned[:size], self._address)
        if size < LEAST_BYTES:
            return None
        copy = DeviceCopy(self._gpu, size)
        self._gpu.copy(copy.address, self._address, size)
        return copy

    def read(self) -> NDArray[Any]:
        """Return the downloaded data as a new array."""
        return self._view.copy()

    def close(self) -> None:
        """Free the memory."""
        if self._address:
            self._gpu.free(self._address)
            self._gpu.unpin(self._pinned)
        self._address, self._pinned = 0, np.empty(0, np.uint8)
