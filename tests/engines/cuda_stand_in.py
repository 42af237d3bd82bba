"""CUDA without a GPU: device memory is host memory.

Every call is checked against the real signature, see `real_parts`. A wrong address, size or order gives wrong numbers
or an error here, as it would on a GPU.
"""

from __future__ import annotations

import ctypes
import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime as real

from tests.engines.real_parts import checked_function

OK = real.cudaError_t.cudaSuccess
STREAM = 77


class Cuda:
    """In place of `cuda.bindings.runtime`, one device of compute capability 8.9."""

    cudaError_t, cudaMemcpyKind, cudaDeviceAttr = real.cudaError_t, real.cudaMemcpyKind, real.cudaDeviceAttr
    cudaStreamCaptureMode, cudaStreamNonBlocking = real.cudaStreamCaptureMode, real.cudaStreamNonBlocking

    def __init__(self) -> None:
        self.device: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.queue: list[Callable[[], None]] = []
        self.recording: list[Callable[[], None]] | None = None
        self.graphs: list[list[Callable[[], None]]] = []
        self.launched = 0
        self.capacity, self.weights = 1 << 40, 0
        self.copied: dict[str, int] = {}
        self.driver, self.runtime, self.capability = 13000, 13000, (8, 9)
        self.failing: dict[str, Any] = {}
        self.compiled = 0
        self.calls: Counter[str] = Counter()
        for name, ours in vars(type(self)).items():
            if name.startswith("cuda") and inspect.isfunction(ours):
                setattr(self, name, checked_function(getattr(real, name), self._count(name)))

    def _count(self, name: str) -> Callable[..., Any]:
        """A function of this class that is counted, and fails where the test asks for it in `failing`."""
        ours = getattr(self, name)

        def call(*arguments: Any) -> Any:
            self.calls[name] += 1
            if name not in self.failing:
                return ours(*arguments)
            if name == "cudaStreamEndCapture":  # the capture is over, whatever became of it
                self.recording = None
            return self.failing[name], None

        return call

    def cudaGetDeviceCount(self) -> tuple[Any, int]:
        return OK, 1

    def cudaDriverGetVersion(self) -> tuple[Any, int]:
        return OK, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[Any, int]:
        return OK, self.runtime

    def cudaDeviceGetAttribute(self, attribute: Any, index: int) -> tuple[Any, int]:
        return OK, self.capability[attribute != real.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor]

    def cudaMemGetInfo(self) -> tuple[Any, int, int]:
        return OK, self.capacity - self.weights - sum(map(len, self.device.values())), self.capacity

    def cudaSetDevice(self, index: int) -> tuple[Any]:
        return (OK if index == 0 else real.cudaError_t.cudaErrorInvalidDevice,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, int]:
        assert flags == real.cudaStreamNonBlocking, "a blocking stream waits for everything else, and breaks captures"
        return OK, STREAM

    def cudaGetLastError(self) -> tuple[Any]:
        return (OK,)

    def cudaMalloc(self, size: int) -> tuple[Any, int]:
        if self.weights + sum(map(len, self.device.values())) + size > self.capacity:
            return real.cudaError_t.cudaErrorMemoryAllocation, 0
        return OK, self._allocate(self.device, size)

    def cudaMallocHost(self, size: int) -> tuple[Any, int]:
        return OK, self._allocate(self.pinned, size)

    def cudaFree(self, address: int) -> tuple[Any]:
        del self.device[address]
        return (OK,)

    def cudaFreeHost(self, address: int) -> tuple[Any]:
        del self.pinned[address]
        return (OK,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: Any) -> tuple[Any]:
        direction = kind.name.removeprefix("cudaMemcpy")
        there = {"Host": self.pinned, "Device": self.device}
        begin, end = direction.split("To")
        self._check(there[end], target, size)
        self._check(there[begin], source, size)
        self.copied[direction] = self.copied.get(direction, 0) + size
        self.enqueue(lambda: ctypes.memmove(target, source, size), stream)
        return (OK,)

    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any]:
        for work in self.queue:
            work()
        self.queue.clear()
        return (OK,)

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any]:
        self.recording = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: Any) -> tuple[Any, Any]:
        recorded, self.recording = self.recording, None
        return OK, recorded

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, Any]:
        self.graphs.append(list(graph))
        return OK, self.graphs[-1]

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any]:
        return (OK,)

    def cudaGraphLaunch(self, graph: Any, stream: Any) -> tuple[Any]:
        self.launched += 1
        self.queue.extend(graph)
        return (OK,)

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[Any]:
        self.graphs = [each for each in self.graphs if each is not graph]
        return (OK,)

    def enqueue(self, work: Callable[[], Any], stream: Any) -> None:
        assert stream == STREAM
        (self.queue if self.recording is None else self.recording).append(work)

    def view(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Device memory as an array."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._check(self.device, address, size)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(dtype).reshape(shape)

    def _allocate(self, kept: dict[int, Any], size: int) -> int:
        memory = (ctypes.c_uint8 * size)()
        ctypes.memset(memory, 255, size)  # what was not written is NaN
        kept[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def _check(self, kept: dict[int, Any], address: int, size: int) -> None:
        assert address in kept and size <= len(kept[address]), "outside of what was allocated"
