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


def check_gpu(index: int) -> None:
    """Checks that CUDA answers, and has this device.

    TensorRT's libraries must not be called before: without CUDA some end the process with a segmentation fault.

    Raises:
        BackendError: there is no driver, an old one, or no such device.
        MissingDependencyError: cuda-bindings is not installed.
    """
    cuda = import_cuda()
    status, count = cuda.cudaGetDeviceCount()
    if status == cuda.cudaError_t.cudaSuccess and index < count:
        return
    needed, driver = (_version(cuda, name) for name in ("cudaRuntimeGetVersion", "cudaDriverGetVersion"))
    if status == cuda.cudaError_t.cudaErrorInsufficientDriver:
        problem = f"serves CUDA {driver}" if driver else "is missing"
        raise BackendError(
            f"the NVIDIA driver {problem}, and the installed cuda-bindings need CUDA {needed}",
            hint="install a newer driver, or a cuda-bindings of the driver's CUDA; nvidia-smi shows what there is",
        )
    if status == cuda.cudaError_t.cudaSuccess:
        raise BackendError(f"there is no CUDA device {index}, there are {count}", hint="nvidia-smi lists them")
    raise BackendError(f"CUDA does not answer: {status.name}", hint="nvidia-smi shows what there is")


def _version(cuda: ModuleType, name: str) -> str | None:
    """A version such as "13.0"; None where there is none."""
    _, number = getattr(cuda, name)()
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


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
    """Memory of one tensor on a GPU, given back with this object.

    Attributes:
        address: of the memory.
    """

    def __init__(self, gpu: Gpu, size: int) -> None:
        self.address = gpu.allocate(size)
        weakref.finalize(self, gpu.discard, self.address).atexit = False


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
        self._discarded: list[int] = []
        self._scratch = self._scratch_size = 0
        self._free_at_first = self.free_memory()
        self.stream: Any = self._call("cudaStreamCreate")

    def select(self) -> None:
        """Makes this the device of the calling thread."""
        self._call("cudaSetDevice", self.index)

    def allocate(self, size: int) -> int:
        """The address of new device memory."""
        while self._discarded:
            self.free(self._discarded.pop())
        address = int(self._call("cudaMalloc", size))
        self.note_memory()
        return address

    def free(self, address: int) -> None:
        """Gives device memory back."""
        self._call("cudaFree", address)

    def discard(self, address: int) -> None:
        """Gives device memory back when next some is allocated; may be called at any time, by any thread."""
        self._discarded.append(address)

    def note_memory(self) -> None:
        """Counts what is taken now towards `peak`."""
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
            self._scratch, self._scratch_size = self.allocate(size), size
        return self._scratch, self._scratch_size

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Host memory that copies to and from the device at full speed, uint8 (size,); `unpin` gives it back."""
        address = int(self._call("cudaMallocHost", size))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        """Gives back what `pinned` gave."""
        self._call("cudaFreeHost", memory.ctypes.data)

    def upload(self, address: int, memory: NDArray[np.uint8]) -> None:
        """Queues a copy from pinned memory to the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, memory.ctypes.data, memory.nbytes, kind, self.stream)

    def download(self, memory: NDArray[np.uint8], address: int) -> None:
        """Queues a copy from the device to pinned memory."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", memory.ctypes.data, address, memory.nbytes, kind, self.stream)

    def copy(self, target: int, source: int, size: int) -> None:
        """Queues a copy from one place on the device to another."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, self.stream)

    def synchronize(self) -> None:
        """Waits until all that was queued is done."""
        self._call("cudaStreamSynchronize", self.stream)

    def capture(self, work: Callable[[], None]) -> Any:
        """What `work` queues, as a graph to `launch`; it does not run now."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)
        try:
            work()
        finally:
            graph = self._call("cudaStreamEndCapture", self.stream)
        ready = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        return ready

    def launch(self, graph: Any) -> None:
        """Queues a graph."""
        self._call("cudaGraphLaunch", graph, self.stream)

    def drop(self, graph: Any) -> None:
        """Gives a graph back."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        """What a function of CUDA's runtime gives, once it said that all is well; a tuple where it is more than one.

        Raises:
            EngineError: it did not.
        """
        status, *values = getattr(self._cuda, name)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            short = status == self._cuda.cudaError_t.cudaErrorMemoryAllocation
            hint = "smaller images or batches, or other programs off the GPU" if short else "nvidia-smi shows its state"
            raise EngineError(f"CUDA device {self.index}: {name} failed: {status.name}", hint=hint)
        return tuple(values) if len(values) > 1 else next(iter(values), None)
