"""TensorRT and TensorRT-RTX engines on a GPU: feeds in, outputs out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.engines.cuda import open_gpu
from segrefine.engines.engine import Closing, cut_batch
from segrefine.engines.tensorrt.buffers import Buffer
from segrefine.engines.tensorrt.libraries import check_runtime
from segrefine.engines.tensorrt.runtime import EnginePlan, LoadedEngine
from segrefine.errors import EngineError, EngineWarning, ShapeError
from segrefine.spec import TensorSpec


class TensorRtEngine(Closing):
    """An engine file on one GPU.

    Feeds go through pinned memory. All engines on the GPU share the memory for intermediate results, and run one at a
    time. An engine of one fixed size is captured as a CUDA graph. TensorRT-RTX captures its own, for any sizes.

    Args:
        plan: the engine's file, and what it was built from.
        index: number of the CUDA device.

    Raises:
        BackendError: CUDA does not answer, there is no such device, or the library does not support it.
        EngineError: the engine does not load, takes or gives something else than its specification, or the GPU has no
            memory for it.
        MissingDependencyError: the library, or cuda-bindings, is not installed.
    """

    def __init__(self, plan: EnginePlan, index: int) -> None:
        self.spec, self._rebuild = plan.spec, plan.rebuild
        # first of all: it checks that CUDA answers, and without CUDA the library may crash
        module = check_runtime(plan.recipe.backend, index)  # type: ignore[arg-type]  # a recipe's backend is any text
        self._gpu = open_gpu(index)
        with self._gpu.lock:
            self._gpu.select()
            loaded = LoadedEngine(module, plan)
            self._loaded: LoadedEngine | None = loaded
            self._limits = {each.name: loaded.profile_shapes(each.name) for each in plan.spec.inputs}
            self._buffers = {each.name: Buffer(self._gpu) for each in (*plan.spec.inputs, *plan.spec.outputs)}
            one_size = all(low == high for low, _, high in self._limits.values())
            self._fixed = plan.recipe.backend == "tensorrt" and one_size
            self._graph: tuple[int, Any] | None = None
            self._seen: set[tuple[tuple[int, ...], ...]] = set()
            self._gpu.scratch(self._scratch_size(loaded))  # at once: growing later would move captured memory
            self._gpu.note_memory()

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name; see `Engine`."""
        self.spec.check_feeds(feeds)
        wanted = [each for each in self.spec.outputs if only in (None, each.name)]
        low, _, high = self._limits[self.spec.inputs[0].name]
        count = len(next(iter(feeds.values())))
        with self._gpu.lock:
            if self._loaded is None:
                raise EngineError("its engine is closed", subject=self.spec.name)
            self._gpu.select()
            parts = [self._run(self._loaded, _fill_batch(part, low[0]), wanted) for part in cut_batch(feeds, high[0])]
        if len(parts) == 1 and count >= low[0]:
            return parts[0]
        return {each.name: np.concatenate([part[each.name] for part in parts])[:count] for each in wanted}

    def close(self) -> None:
        """Free the engine and its buffers; closing twice is fine."""
        with self._gpu.lock:
            if self._loaded is None:
                return
            self._gpu.select()
            try:
                self._gpu.synchronize()
                if self._graph:
                    self._gpu.drop(self._graph[1])
                self._loaded.save_cache()
                for buffer in self._buffers.values():
                    buffer.close()
            finally:
                self._loaded.close()
                self._graph = self._loaded = None

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """The smallest and the largest size that the engine takes, of each symbol that its inputs have."""
        found: dict[str, tuple[int, int]] = {}
        for tensor in self.spec.inputs:
            low, _, high = self._limits[tensor.name]
            found |= {s: (low[axis], high[axis]) for axis, s in enumerate(tensor.shape) if isinstance(s, str)}
        return found

    @property
    def freedom(self) -> int:
        """Return the number of sizes the engine leaves free, a measure that orders engines of one graph."""
        return sum(int(np.prod(high)) - int(np.prod(low)) for low, _, high in self._limits.values())

    def serves(self, feeds: Mapping[str, NDArray[Any]], *, any_batch: bool) -> bool:
        """Return whether the engine takes feeds of these sizes; with `any_batch`, if need be in parts or filled up."""
        first = int(any_batch)
        return all(self._fits(name, values.shape, first) for name, values in feeds.items())

    def _run(
        self, loaded: LoadedEngine, feeds: Mapping[str, NDArray[Any]], wanted: list[TensorSpec]
    ) -> dict[str, NDArray[Any]]:
        for name, values in feeds.items():
            self._check_limits(name, values.shape)
            if not loaded.context.set_input_shape(name, values.shape):
                raise EngineError(
                    f"TensorRT refuses {values.shape} for {name!r}: {loaded.log.said()}",
                    subject=self.spec.name,
                    hint=f"build it again: {self._rebuild}",
                )
            loaded.context.set_tensor_address(name, self._buffers[name].upload(values))
        for tensor in self.spec.outputs:
            shape = tuple(loaded.context.get_tensor_shape(tensor.name))
            if min(shape, default=0) < 0:  # a size that the library could not tell from those of the inputs
                raise EngineError(
                    f"TensorRT does not know the size of {tensor.name!r}", subject=self.spec.name, got=shape
                )
            loaded.context.set_tensor_address(tensor.name, self._buffers[tensor.name].prepare(shape, tensor.dtype))
        self._execute(loaded)
        buffers = {tensor.name: self._buffers[tensor.name] for tensor in wanted}
        copies = {name: buffer.download() for name, buffer in buffers.items()}
        self._gpu.synchronize()
        outputs = {name: buffer.read() for name, buffer in buffers.items()}
        for name, copy in copies.items():
            if copy:
                self._gpu.resident.keep(outputs[name], copy)
        self._note(loaded, tuple(values.shape for values in feeds.values()))
        return outputs

    def _note(self, loaded: LoadedEngine, shapes: tuple[tuple[int, ...], ...]) -> None:
        """After the first run of each shape: count the memory that it took, and keep what was compiled for it."""
        if shapes not in self._seen:
            if not self._seen:
                loaded.save_cache()
            self._seen.add(shapes)
            self._gpu.note_memory()

    def _execute(self, loaded: LoadedEngine) -> None:
        scratch, size = self._gpu.scratch(self._scratch_size(loaded))
        if self._graph and self._graph[0] == scratch:
            self._gpu.launch(self._graph[1])
            return
        loaded.context.set_device_memory(scratch, size)
        self._queue(loaded)
        if self._fixed:  # the first run sets up what a graph must not capture
            self._capture(loaded, scratch)

    def _capture(self, loaded: LoadedEngine, scratch: int) -> None:
        """Capture the engine as a CUDA graph. Where that fails, a warning says so, and plain launches go on."""
        if self._graph:
            self._gpu.drop(self._graph[1])
            self._graph = None
        try:
            self._graph = scratch, self._gpu.capture(lambda: self._queue(loaded))
        except EngineError as error:
            self._fixed = False
            message = f"{self.spec.name} runs without a CUDA graph, and somewhat slower: {error}"
            warnings.warn(message, EngineWarning, stacklevel=2)

    def _queue(self, loaded: LoadedEngine) -> None:
        if not loaded.context.execute_async_v3(int(self._gpu.stream)):
            raise EngineError(
                f"it failed in TensorRT: {loaded.log.said()}",
                subject=self.spec.name,
                hint=f"build it again: {self._rebuild}",
            )

    def _check_limits(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._fits(name, shape):
            low, _, high = self._limits[name]
            raise ShapeError(
                subject=f"{self.spec.name}, input {name!r}",
                expected=f"{low} to {high}, which its engine takes",
                got=shape,
                hint=f"build it for other sizes, see its --min-shapes and --max-shapes: {self._rebuild}",
            )

    def _fits(self, name: str, shape: tuple[int, ...], first: int = 0) -> bool:
        """Return whether a shape is within the limits of an input, from the axis `first` on."""
        low, _, high = self._limits[name]
        return all(least <= size <= most for least, size, most in [*zip(low, shape, high, strict=True)][first:])

    @staticmethod
    def _scratch_size(loaded: LoadedEngine) -> int:
        """Bytes for intermediate results; one at least, so that there is an address."""
        return max(1, int(loaded.engine.device_memory_size_v2))


class TensorRtEngines(Closing):
    """Engines of one graph for different sizes; each call goes to the narrowest that takes its feeds.

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
        return next(found, self._engines[-1])(feeds, only=only)  # the last one's error says what it takes

    @property
    def sizes(self) -> list[dict[str, tuple[int, int]]]:
        """The sizes that each engine takes, see `TensorRtEngine.sizes`; the narrowest first."""
        return [engine.sizes for engine in self._engines]

    def close(self) -> None:
        """Free the engines; closing twice is fine."""
        for engine in self._engines:
            engine.close()


def _fill_batch(feeds: Mapping[str, NDArray[Any]], least: int) -> Mapping[str, NDArray[Any]]:
    """The feeds, their last sample repeated until there are `least` samples."""
    lacking = least - len(next(iter(feeds.values())))
    if lacking <= 0:
        return feeds
    return {name: np.concatenate([values, np.repeat(values[-1:], lacking, 0)]) for name, values in feeds.items()}
