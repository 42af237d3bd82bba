"""One GPU through cuda-bindings, without torch: memory, copies, a stream, graphs; every call checked."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from functools import cache
from threading import RLock
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.engines.resident import Resident
from segrefine.errors import BackendError, EngineError, MissingDependencyError

_NO_DRIVER = "install NVIDIA's driver; nvidia-smi shows whether there is one"
_BINDINGS = '"cuda-bindings<13"'
_SHORTAGE = "use smaller images or batches, or close other programs on the GPU"

MOST_POOLED = 1 << 28
"""Bytes of freed device memory that are kept for the next tensors. Not measured."""


def import_cuda() -> ModuleType:
    """The module of CUDA's runtime.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        hint = 'install it: pip install "segrefine[cuda]"'
        raise MissingDependencyError("the package cuda-bindings is not installed", hint=hint) from error
    return runtime  # type: ignore[no-any-return]  # it comes without types


def check_gpu(index: int, packages: str = _BINDINGS) -> None:
    """Check that CUDA answers, and has this device.

    Libraries for GPUs must not be called before: without CUDA some end the process with a segmentation fault.

    Args:
        index: number of the device.
        packages: what to install instead where the driver is for CUDA 12, for the hint.

    Raises:
        BackendError: there is no driver, an old one, or no such device.
        MissingDependencyError: cuda-bindings is not installed.
    """
    cuda = import_cuda()
    try:
        status, count = cuda.cudaGetDeviceCount()
        needed, driver = (_version(cuda, name) for name in ("cudaRuntimeGetVersion", "cudaDriverGetVersion"))
    except RuntimeError as error:  # cuda-bindings before 12.9 does not return a code where there is no driver
        raise BackendError(f"the NVIDIA driver is missing: {error}", hint=_NO_DRIVER) from error
    if status == cuda.cudaError_t.cudaSuccess and index < count:
        return
    if status == cuda.cudaError_t.cudaErrorInsufficientDriver and driver:
        raise BackendError(
            "the NVIDIA driver is too old",
            expected=f"one for CUDA {needed}, which the installed cuda-bindings need",
            got=f"one for CUDA {driver}",
            hint=f"install a newer driver (CUDA 13 needs R580 or later), or the packages for CUDA 12: {packages}; "
            "nvidia-smi shows the driver",
        )
    if status == cuda.cudaError_t.cudaErrorInsufficientDriver:
        message = f"the NVIDIA driver is missing, and the installed cuda-bindings need CUDA {needed}"
        raise BackendError(message, hint=_NO_DRIVER)
    if status == cuda.cudaError_t.cudaSuccess:
        raise BackendError(f"there is no CUDA device {index}, there are {count}", hint="nvidia-smi lists them")
    raise BackendError(f"CUDA does not answer: {status.name}", hint="nvidia-smi shows what there is")


def _version(cuda: ModuleType, name: str) -> str | None:
    """A version such as "13.0"; None where there is none."""
    _, number = getattr(cuda, name)()
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def driver_cuda() -> int:
    """CUDA version that the driver supports, such as 13000 for 13.0; 0 where there is no driver."""
    _, number = import_cuda().cudaDriverGetVersion()
    return int(number or 0)


@cache
def open_gpu(index: int) -> Gpu:
    """The GPU of this number, one object for a process.

    Raises:
        BackendError: see `check_gpu`.
        MissingDependencyError: cuda-bindings is not installed.
    """
    check_gpu(index)
    return Gpu(index)


class DeviceCopy:
    """Memory of one tensor on a GPU, returned to the GPU's pool with this object.

    Attributes:
        address: of the memory.
    """

    def __init__(self, gpu: Gpu, size: int) -> None:
        self.address = gpu.take(size)
        weakref.finalize(self, gpu.discard, self.address, size).atexit = False


class Gpu:
    """A GPU, its one stream, and the scratch memory that its engines share: they run one after another.

    Attributes:
        index: number of the device.
        lock: held while an engine runs.
        stream: the stream that all work goes to.
        resident: what the device has of arrays on the host.
        peak: the most device memory that was taken since this object was made, bytes: weights, buffers, intermediate
            results, and what other programs took meanwhile.
    """

    def __init__(self, index: int) -> None:
        self._cuda: Any = import_cuda()
        self.index, self.lock, self.peak = index, RLock(), 0
        self.resident: Resident[DeviceCopy] = Resident()
        self._discarded: list[tuple[int, int]] = []
        self._pool: dict[int, list[int]] = {}
        self._pooled = 0
        self._scratch = self._scratch_size = 0
        self._free_at_first = self.free_memory()
        # A blocking stream would wait for all that other libraries queue, and their work would break a capture.
        self.stream: Any = self._call("cudaStreamCreateWithFlags", int(self._cuda.cudaStreamNonBlocking))

    def select(self) -> None:
        """Make this the device of the calling thread."""
        self._call("cudaSetDevice", self.index)

    def allocate(self, size: int) -> int:
        """The address of new device memory. If there is too little, the pool is freed first."""
        try:
            address = int(self._call("cudaMalloc", size))
        except EngineError:
            if not self._empty_pool():
                raise
            address = int(self._call("cudaMalloc", size))
        self.note_memory()
        return address

    def free(self, address: int) -> None:
        """Free device memory."""
        self._call("cudaFree", address)

    def take(self, size: int) -> int:
        """The address of device memory from the pool, or of new memory. Give it back with `discard`."""
        self._collect()
        if addresses := self._pool.get(size):
            self._pooled -= size
            return addresses.pop()
        return self.allocate(size)

    def discard(self, address: int, size: int) -> None:
        """Return memory to the pool, later and in the order of the stream. Any thread may call this at any time."""
        self._discarded.append((address, size))

    def _collect(self) -> None:
        """Put what was discarded into the pool, as far as `MOST_POOLED` goes; free the rest."""
        while self._discarded:
            address, size = self._discarded.pop()
            if self._pooled + size > MOST_POOLED:
                self.free(address)
            else:
                self._pool.setdefault(size, []).append(address)
                self._pooled += size

    def _empty_pool(self) -> bool:
        """Free all memory of the pool; whether there was any."""
        self._collect()
        found = [address for addresses in self._pool.values() for address in addresses]
        self._pool.clear()
        self._pooled = 0
        if found:
            self.synchronize()
        for address in found:
            self.free(address)
        return bool(found)

    def note_memory(self) -> None:
        """Raise `peak` to what is in use now, if that is more."""
        self.peak = max(self.peak, self._free_at_first - self.free_memory())

    def free_memory(self) -> int:
        """Device memory that nobody holds, bytes."""
        self.select()
        return int(self._call("cudaMemGetInfo")[0])

    def scratch(self, size: int) -> tuple[int, int]:
        """Address and size of the memory that engines share, at least `size`; valid until more is asked for."""
        if size > self._scratch_size:
            self.synchronize()
            if self._scratch:
                self.free(self._scratch)
                self._scratch = self._scratch_size = 0
            self._scratch, self._scratch_size = self.allocate(size), size
        return self._scratch, self._scratch_size

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Host memory that copies to and from the device at full speed, uint8 (size,); `unpin` gives it back."""
        address = int(self._call("cudaMallocHost", size))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        """Free what `pinned` gave."""
        self._call("cudaFreeHost", memory.ctypes.data)

    def upload(self, address: int, memory: NDArray[np.uint8]) -> None:
        """Queue a copy from pinned memory to the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, memory.ctypes.data, memory.nbytes, kind, self.stream)

    def download(self, memory: NDArray[np.uint8], address: int) -> None:
        """Queue a copy from the device to pinned memory."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", memory.ctypes.data, address, memory.nbytes, kind, self.stream)

    def copy(self, target: int, source: int, size: int) -> None:
        """Queue a copy from one place on the device to another."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, self.stream)

    def synchronize(self) -> None:
        """Wait until all that was queued is done."""
        self._call("cudaStreamSynchronize", self.stream)

    def capture(self, work: Callable[[], None]) -> Any:
        """Capture what `work` queues as a graph to `launch`; it does not run now.

        Raises:
            EngineError: it cannot be captured. The stream works as before.
        """
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)
        try:
            work()
        except BaseException:  # its own error tells more than that of the capture that it broke
            _, broken = self._cuda.cudaStreamEndCapture(self.stream)
            if broken:
                self._cuda.cudaGraphDestroy(broken)
            raise
        graph = self._call("cudaStreamEndCapture", self.stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any) -> None:
        """Queue a graph."""
        self._call("cudaGraphLaunch", graph, self.stream)

    def drop(self, graph: Any) -> None:
        """Free a graph."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of CUDA's runtime; its result, as a tuple where there are several.

        Raises:
            EngineError: the function failed.
        """
        status, *values = getattr(self._cuda, name)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            self._cuda.cudaGetLastError()  # else the next library to ask would take this failure for its own
            short = status == self._cuda.cudaError_t.cudaErrorMemoryAllocation
            hint = _SHORTAGE if short else "nvidia-smi shows its state"
            raise EngineError(f"{name} failed: {status.name}", subject=f"CUDA device {self.index}", hint=hint)
        return tuple(values) if len(values) > 1 else next(iter(values), None)
