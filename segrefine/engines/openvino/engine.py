"""A graph that runs in OpenVINO, on CPUs: compiled again for each shape of its inputs, in float32 or bfloat16."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.engines.engine import Closing, check_threads, even_parts
from segrefine.engines.openvino.attention import spread_attention
from segrefine.engines.openvino.graphs import check_names, check_openvino, import_openvino, read_graph
from segrefine.engines.openvino.long_attention import OutOfReachError, check_reach, split_long_attention
from segrefine.engines.openvino.stages import connect_stages, cut_stages, find_early_output
from segrefine.errors import EngineError
from segrefine.spec import ComponentSpec

_MOST_SHAPES, _THREADS_FOR_LARGE = 8, 4
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


@dataclass(kw_only=True)
class _Compiled:
    """Compiled model for parts of one shape.

    Attributes:
        models: one, or the model of each stage.
        stages: the requests of those stages that were needed so far, one for each part of a batch at the same time.
        split: whether attention was split, see `split_long_attention`.
    """

    models: list[Any]
    stages: list[list[Any]] = field(default_factory=list)
    split: bool


class OpenVinoEngine(Closing):
    """A graph in OpenVINO, compiled when a shape first comes and kept for the eight shapes used last.

    A graph of fixed shapes runs a fifth faster than one of free shapes: all that only computes sizes is gone. A batch
    is cut into one part for each thread: threads that share an operator wait for each other at its end, hundreds of
    times in a denoiser. Of a large graph that is little beside the work, and compiling takes as long as computing two
    samples; there a batch goes through sample by sample, four threads to each, so that all batches share what was
    compiled. A large graph of two outputs is cut where the early one is known, see `stages`.

    Args:
        path: an ONNX graph, or the ``.xml`` that `convert_graph` made from one.
        spec: what it takes and gives; the graph must agree.
        threads: CPU threads; None lets OpenVINO choose.
        precision: ``"fp32"``, or ``"bf16"`` to compute in bfloat16 wherever OpenVINO can.
        large: one sample is work enough for four threads.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        BackendError: this CPU has no instructions for bfloat16.
        EngineError: the graph does not load, or takes or gives something else than `spec`.
        SettingsError: `threads` is out of range.
    """

    def __init__(
        self,
        path: Path,
        spec: ComponentSpec,
        threads: int | None = None,
        *,
        precision: str = "fp32",
        large: bool = False,
    ) -> None:
        check_openvino(precision)
        self._core: Any = import_openvino().Core()
        # Pinned, engines of one thread each would all have the same core, in this process and in its neighbours.
        self._options: dict[str, str | int] = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = check_threads(threads)
        threads = threads or self._core.get_property("CPU", "RANGE_FOR_STREAMS")[1]
        self._large, self._most_streams = large, max(1, threads // _THREADS_FOR_LARGE) if large else threads
        self._model: Any = read_graph(self._core, path)
        self._compiled: OrderedDict[tuple[object, ...], _Compiled] = OrderedDict()
        self._turn, self._splits = Lock(), True
        self.spec = spec
        check_names(self._model, spec, path)
        names = [tensor.name for tensor in spec.outputs]
        self._early = find_early_output(self._model, names) if large else None

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name; see `Engine`. Threads that call at the same time are served in turn."""
        with self._turn:
            try:
                return self._run(feeds, only)
            except OutOfReachError:  # from here on attention is computed whole
                self._splits = False
                self._compiled.clear()
                return self._run(feeds, only)

    def _run(self, feeds: Mapping[str, NDArray[Any]], only: str | None) -> dict[str, NDArray[Any]]:
        if self._model is None:
            raise EngineError("its engine is closed", subject=self.spec.name)
        self.spec.check_feeds(feeds)
        count, outputs = len(feeds[self.spec.inputs[0].name]), dict[str, NDArray[Any]]()
        wanted = {only} if only else {tensor.name for tensor in self.spec.outputs}
        parts = self._parts(count)
        shapes = {name: values[parts[0]].shape for name, values in feeds.items()}
        try:
            compiled = self._compile(shapes, wanted, len(parts))
            stages = compiled.stages[: self._count_stages(wanted)]
            for first in range(0, len(parts), len(stages[0])):
                for requests in stages:
                    running = list(zip(requests, parts[first:], strict=False))
                    _start(running, feeds)
                    for request, part in running:
                        request.wait()
                        for name, values in _read(request, wanted):
                            whole = outputs.setdefault(name, np.empty((count, *values.shape[1:]), values.dtype))
                            whole[part] = values
                    if compiled.split:
                        check_reach(request for request, _ in running)
            return outputs
        except RuntimeError as error:
            raise EngineError(f"it failed in OpenVINO: {error}", subject=self.spec.name) from error

    def close(self) -> None:
        """Frees the graph and all that was compiled from it; closing twice is fine."""
        with self._turn:
            self._model = None
            self._compiled.clear()

    def _parts(self, count: int) -> list[slice]:
        """A batch of `count` in parts of one size."""
        if not self.spec.has_batch:
            return [slice(count)]
        return even_parts(count, count if self._large else self._most_streams)

    def _compile(self, shapes: Mapping[str, tuple[int, ...]], wanted: Collection[str], count: int) -> _Compiled:
        """Compile a model for `count` parts of these shapes, computed in parallel on the available threads."""
        count = min(count, self._most_streams)
        outputs = () if self._early else tuple(sorted(wanted))
        key = outputs, count, *(shapes[tensor.name] for tensor in self.spec.inputs)
        if key not in self._compiled:
            model = self._model.clone()
            for result in [each for each in model.get_results() if outputs and not {*outputs} & each.output(0).names]:
                model.remove_result(result)
            model.reshape({name: list(shape) for name, shape in shapes.items()})
            models = cut_stages(model, self._early) if self._early else [model]
            split = self._splits and any([split_long_attention(each) for each in models])
            for each in models:
                spread_attention(each)
            self._compiled[key] = _Compiled(models=models, split=split)
            if len(self._compiled) > _MOST_SHAPES:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        compiled = self._compiled[key]
        if missing := compiled.models[len(compiled.stages) : self._count_stages(wanted)]:
            with ThreadPoolExecutor(len(missing)) as pool:
                compiled.stages += pool.map(partial(self._open, count=count), missing)
            if len(compiled.stages) > 1:
                connect_stages(*compiled.stages)
        return compiled

    def _count_stages(self, wanted: Collection[str]) -> int:
        """The number of stages that give the wanted outputs."""
        return 1 if self._early is None or wanted == {self._early} else 2

    def _open(self, model: Any, count: int) -> list[Any]:
        """Compile a model, and open `count` requests that run at the same time."""
        compiled = self._core.compile_model(model, "CPU", self._options | {"NUM_STREAMS": count})
        return [compiled.create_infer_request() for _ in range(count)]


def _read(request: Any, wanted: Collection[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the wanted outputs that a request computed, with their names."""
    for port in request.model_outputs:
        for name in port.names & {*wanted}:
            yield name, request.get_tensor(port).data


def _start(running: Sequence[tuple[Any, slice]], feeds: Mapping[str, NDArray[Any]]) -> None:
    """Starts requests, each with its part of a batch; a lone one computes on this thread: others have to wake up."""
    names = [name for name in feeds if any(name in port.names for port in running[0][0].model_inputs)]
    given = [{name: feeds[name][part] for name in names} for _, part in running]
    if len(running) == 1:
        running[0][0].infer(given[0], share_inputs=True, share_outputs=True)
        return
    for (request, _), values in zip(running, given, strict=True):
        request.start_async(values, share_inputs=True)
