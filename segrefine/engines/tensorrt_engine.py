"""TensorRT and TensorRT-RTX as backends: engines that `build_engine` made, run without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.engines.cuda import DeviceCopy, Gpu, open_gpu
from segrefine.engines.engine import Closing, cut_batch
from segrefine.engines.resident import LEAST_BYTES
from segrefine.engines.tensorrt import Library, import_first
from segrefine.errors import EngineError, MissingDependencyError, ShapeError
from segrefine.spec import ComponentSpec, TensorSpec

_RUNTIMES: Mapping[Library, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt_lean", "tensorrt_lean_bindings"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
"""Modules that run engines; those of full TensorRT are version-compatible, so that its lean runtime is enough."""


class TensorRtEngine(Closing):
    """An engine file on one GPU.

    Feeds go through pinned memory; the memory for intermediate results is shared with all engines on the GPU, and they
    run one at a time. An engine for one size of everything is captured as a CUDA graph (TensorRT-RTX captures its own,
    for any sizes). A batch beyond the engine's largest goes through in parts, one below its smallest is filled up.

    Args:
        path: the engine.
        spec: what it takes and gives; the engine must agree.
        library: what built it.
        index: number of the CUDA device.
        rebuild: the command that builds it again, for errors.

    Raises:
        BackendError: CUDA does not answer, or has no such device.
        EngineError: the engine does not load, or takes or gives something else than `spec`.
        MissingDependencyError: the library, or cuda-bindings, is not installed.
    """

    def __init__(self, path: Path, spec: ComponentSpec, library: Library, index: int, *, rebuild: str) -> None:
        self.spec, self._rebuild, self._hint = spec, rebuild, f"build it again: {rebuild}"
        self._gpu = open_gpu(index)  # before the library, which may crash without CUDA
        module = import_runtime(library)
        with self._gpu.lock:
            self._gpu.select()
            self._log = _new_log(module)
            self._runtime: Any = module.Runtime(self._log)
            self._engine: Any = self._deserialize(module, library, path)
            self._check(module, path)
            self._limits = {each.name: self._profile_shapes(each.name) for each in spec.inputs}
            self._config: Any = None
            self._context: Any = self._new_context(module, library)
            self._buffers = {each.name: _Buffer(self._gpu) for each in (*spec.inputs, *spec.outputs)}
            self._fixed = library == "tensorrt" and all(low == high for low, _, high in self._limits.values())
            self._graph: tuple[int, Any] | None = None
            self._gpu.note_memory()

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name; see `Engine`."""
        if self._context is None:
            raise EngineError(f"the engine of {self.spec.name} is closed")
        self.spec.check_feeds(feeds)
        wanted = [each for each in self.spec.outputs if only in (None, each.name)]
        low, _, high = self._limits[self.spec.inputs[0].name]
        count = len(next(iter(feeds.values())))
        with self._gpu.lock:
            self._gpu.select()
            parts = [self._run(_fill_batch(part, low[0]), wanted) for part in cut_batch(feeds, high[0])]
            self._gpu.note_memory()
        if len(parts) == 1 and count >= low[0]:
            return parts[0]
        return {each.name: np.concatenate([part[each.name] for part in parts])[:count] for each in wanted}

    def close(self) -> None:
        """Frees the engine and its buffers; closing twice is fine."""
        if self._context is None:
            return
        with self._gpu.lock:
            self._gpu.select()
            self._gpu.synchronize()
            if self._graph:
                self._gpu.drop(self._graph[1])
            for buffer in self._buffers.values():
                buffer.close()
            self._graph = self._context = None
            self._config = None  # the context refers to it without owning it, so it goes after the context
            self._engine = self._runtime = None

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """The smallest and the largest size that the engine serves, of each symbol that its inputs have."""
        found: dict[str, tuple[int, int]] = {}
        for tensor in self.spec.inputs:
            low, _, high = self._limits[tensor.name]
            found |= {s: (low[axis], high[axis]) for axis, s in enumerate(tensor.shape) if isinstance(s, str)}
        return found

    @property
    def freedom(self) -> int:
        """How many sizes the engine leaves free, in a measure that orders engines of one graph."""
        return sum(int(np.prod(high)) - int(np.prod(low)) for low, _, high in self._limits.values())

    def serves(self, feeds: Mapping[str, NDArray[Any]], *, any_batch: bool) -> bool:
        """Whether the engine takes feeds of these sizes; with `any_batch`, if need be in parts or filled up."""
        first = int(any_batch)
        return all(self._fits(name, values.shape, first) for name, values in feeds.items())

    def _run(self, feeds: Mapping[str, NDArray[Any]], wanted: list[TensorSpec]) -> dict[str, NDArray[Any]]:
        for name, values in feeds.items():
            self._check_limits(name, values.shape)
            self._context.set_input_shape(name, values.shape)
            self._context.set_tensor_address(name, self._buffers[name].upload(values))
        for tensor in self.spec.outputs:
            shape = tuple(self._context.get_tensor_shape(tensor.name))
            self._context.set_tensor_address(tensor.name, self._buffers[tensor.name].prepare(shape, tensor.dtype))
        self._execute()
        buffers = {tensor.name: self._buffers[tensor.name] for tensor in wanted}
        copies = {name: buffer.download() for name, buffer in buffers.items()}
        self._gpu.synchronize()
        outputs = {name: buffer.read() for name, buffer in buffers.items()}
        for name, copy in copies.items():
            if copy:
                self._gpu.resident.keep(outputs[name], copy)
        return outputs

    def _execute(self) -> None:
        scratch, size = self._gpu.scratch(max(1, self._engine.device_memory_size_v2))
        if self._graph and self._graph[0] == scratch:
            self._gpu.launch(self._graph[1])
            return
        self._context.set_device_memory(scratch, size)
        self._queue()
        if self._fixed:  # the first run sets up what a graph must not capture
            if self._graph:
                self._gpu.drop(self._graph[1])
            self._graph = scratch, self._gpu.capture(self._queue)

    def _queue(self) -> None:
        if not self._context.execute_async_v3(int(self._gpu.stream)):
            raise EngineError(f"{self.spec.name} failed in TensorRT: {self._log.said()}", hint=f"run {self._rebuild}")

    def _check_limits(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._fits(name, shape):
            low, _, high = self._limits[name]
            raise ShapeError(
                f"{self.spec.name}: input {name!r} is {shape}, and its engine serves {low} to {high}",
                hint=f"build it for other sizes, see its --min-shapes and --max-shapes: {self._rebuild}",
            )

    def _fits(self, name: str, shape: tuple[int, ...], first: int = 0) -> bool:
        """Whether a shape is within the limits of an input, from the axis `first` on."""
        low, _, high = self._limits[name]
        return all(least <= size <= most for least, size, most in [*zip(low, shape, high, strict=True)][first:])

    def _profile_shapes(self, name: str) -> list[tuple[int, ...]]:
        """Smallest, tuned and largest shape of an input, as tuples: the library's `Dims` cannot be compared."""
        return [tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, 0)]

    def _deserialize(self, module: Any, library: Library, path: Path) -> Any:
        content = path.read_bytes()
        if library == "tensorrt-rtx":
            validity, reasons = self._runtime.get_engine_validity(content)
            if validity == module.EngineValidity.INVALID:
                named = [
                    name
                    for name, flag in module.EngineInvalidityDiagnostics.__members__.items()
                    if reasons & flag.value
                ]
                said = " and ".join(named).lower().replace("_", " ") or self._log.said()
                raise EngineError(f"{path} does not fit this machine: {said}", hint=self._hint)
        elif module.__name__ == "tensorrt":
            self._runtime.engine_host_code_allowed = True  # version-compatible engines carry the lean runtime
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise EngineError(f"{path} does not load in {library}: {self._log.said()}", hint=self._hint)
        return engine

    def _check(self, module: Any, path: Path) -> None:
        """Raises EngineError where the engine's tensors are not those of the specification."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        for mode, tensors in (
            (module.TensorIOMode.INPUT, self.spec.inputs),
            (module.TensorIOMode.OUTPUT, self.spec.outputs),
        ):
            expected = {each.name: each.dtype for each in tensors}
            found = {
                name: np.dtype(module.nptype(self._engine.get_tensor_dtype(name))).name
                for name in names
                if self._engine.get_tensor_mode(name) == mode
            }
            if found != expected:
                message = f"{path} has {mode.name.lower()}s {found}, but {self.spec.name} should have {expected}"
                raise EngineError(message, hint=self._hint)

    def _new_context(self, module: Any, library: Library) -> Any:
        strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
        if library == "tensorrt-rtx":
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._config = config
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(strategy)
        if context is None:
            raise EngineError(f"{self.spec.name}: no memory to run its engine: {self._log.said()}")
        return context


class TensorRtEngines(Closing):
    """Engines of one graph for different sizes; each call goes to the narrowest that serves it.

    Args:
        engines: one or more.
    """

    def __init__(self, engines: Sequence[TensorRtEngine]) -> None:
        self._engines = sorted(engines, key=lambda engine: engine.freedom)
        self.spec = engines[0].spec

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name; see `Engine`."""
        self.spec.check_feeds(feeds)
        found = (
            each for any_batch in (False, True) for each in self._engines if each.serves(feeds, any_batch=any_batch)
        )
        return next(found, self._engines[-1])(feeds, only=only)  # the last one's error says what it serves

    @property
    def sizes(self) -> list[dict[str, tuple[int, int]]]:
        """What each engine serves, see `TensorRtEngine.sizes`; the narrowest first."""
        return [engine.sizes for engine in self._engines]

    def close(self) -> None:
        """Frees the engines; closing twice is fine."""
        for engine in self._engines:
            engine.close()


def _fill_batch(feeds: Mapping[str, NDArray[Any]], least: int) -> Mapping[str, NDArray[Any]]:
    """The feeds with their last sample as often as it takes for `least` samples."""
    lacking = least - len(next(iter(feeds.values())))
    if lacking <= 0:
        return feeds
    return {name: np.concatenate([values, np.repeat(values[-1:], lacking, 0)]) for name, values in feeds.items()}


class _Buffer:
    """The memory of one tensor, on the host and on the device, that grows as needed."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._address, self._pinned = gpu, 0, np.empty(0, np.uint8)
        self._view: NDArray[Any] = self._pinned

    def prepare(self, shape: tuple[int, ...], dtype: str) -> int:
        """The address on the device of a tensor of this shape."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > len(self._pinned):
            self.close()
            self._address, self._pinned = self._gpu.allocate(size), self._gpu.pinned(size)
        self._view = self._pinned[:size].view(dtype).reshape(shape)
        return self._address

    def upload(self, values: NDArray[Any]) -> int:
        """Queues the copy of an array to the device, from there if it has one; the address."""
        self.prepare(values.shape, values.dtype.name)
        if copy := self._gpu.resident.find(values):
            self._gpu.copy(self._address, copy.address, values.nbytes)
            return self._address
        self._view[...] = values
        self._gpu.upload(self._address, self._pinned[: self._view.nbytes])
        return self._address

    def download(self) -> DeviceCopy | None:
        """Queues the copy of the tensor to the host; another one on the device, if it is large."""
        size = self._view.nbytes
        self._gpu.download(self._pinned[:size], self._address)
        if size < LEAST_BYTES:
            return None
        copy = DeviceCopy(self._gpu, size)
        self._gpu.copy(copy.address, self._address, size)
        return copy

    def read(self) -> NDArray[Any]:
        """What was downloaded, a new array."""
        return self._view.copy()

    def close(self) -> None:
        """Gives the memory back."""
        if self._address:
            self._gpu.free(self._address)
            self._gpu.unpin(self._pinned)
        self._address, self._pinned = 0, np.empty(0, np.uint8)


def import_runtime(library: Library) -> ModuleType:
    """The module that runs a library's engines.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if found := import_first(_RUNTIMES[library], "Runtime"):
        return found
    message, hint = f"the runtime of {library} is not installed", f'install it: pip install "segrefine[{library}]"'
    raise MissingDependencyError(message, hint=hint)


def _new_log(module: Any) -> Any:
    """A logger of the library that keeps its last error."""

    class Log(module.ILogger):  # type: ignore[misc]  # the class is the library's, whichever it is
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR):
                self.last = message.strip()

        def said(self) -> str:
            return self.last or "it says no reason"

    return Log()
