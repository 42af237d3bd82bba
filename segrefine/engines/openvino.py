"""OpenVINO as a backend, on CPUs: compiled anew for every shape of its inputs, in float32 or bfloat16."""

from __future__ import annotations

import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.bundle import Bundle
from segrefine.engines.engine import Closing, check_threads, even_parts
from segrefine.engines.openvino_attention import spread_attention
from segrefine.engines.openvino_long_attention import OutOfReachError, check_reach, split_long_attention
from segrefine.engines.recipe import EngineRecipe, graph_hashes
from segrefine.errors import BackendError, EngineError, MissingDependencyError
from segrefine.spec import ComponentSpec

_BFLOAT16_DENOISERS = ("unet", "unet_features", "label_denoiser")
_MOST_SHAPES, _THREADS_FOR_LARGE = 8, 4
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
_HINT = 'install it: pip install "segrefine[openvino]"'


@dataclass(frozen=True)
class _Compiled:
    """What computes parts of one shape, and whether its attention was split; see `split_long_attention`."""

    requests: list[Any]
    split: bool


class OpenVinoEngine(Closing):
    """A graph in OpenVINO, compiled when a shape first comes and kept for the eight shapes used last.

    A graph of fixed shapes runs a fifth faster than one of free shapes: all that only computes sizes is gone. A batch
    is cut into one part for each thread: threads that share an operator wait for each other at its end, hundreds of
    times in a denoiser. Of a large graph that is little beside the work, and compiling takes as long as computing two
    samples; there a batch goes through sample by sample, four threads to each, so that all batches share what was
    compiled.

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
        self._core: Any = _import_openvino().Core()
        # Pinned, engines of one thread each would all have the same core, in this process and in its neighbours.
        self._options: dict[str, str | int] = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = check_threads(threads)
        threads = threads or self._core.get_property("CPU", "RANGE_FOR_STREAMS")[1]
        self._large, self._most_streams = large, max(1, threads // _THREADS_FOR_LARGE) if large else threads
        self._model: Any = _read(self._core, path)
        self._compiled: OrderedDict[tuple[object, ...], _Compiled] = OrderedDict()
        self._turn, self._splits = Lock(), True
        self.spec = spec
        _check_names(self._model, spec, path)

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
            raise EngineError(f"the engine of {self.spec.name} is closed")
        self.spec.check_feeds(feeds)
        count, outputs = len(feeds[self.spec.inputs[0].name]), dict[str, NDArray[Any]]()
        parts = self._parts(count)
        shapes = {name: values[parts[0]].shape for name, values in feeds.items()}
        try:
            compiled = self._compile(shapes, only, len(parts))
            requests = compiled.requests
            for first in range(0, len(parts), len(requests)):
                running = list(zip(requests, parts[first:], strict=False))
                _start(running, feeds)
                for request, part in running:
                    request.wait()
                    for name in [only] if only else [tensor.name for tensor in self.spec.outputs]:
                        values = request.get_tensor(name).data
                        whole = outputs.setdefault(name, np.empty((count, *values.shape[1:]), values.dtype))
                        whole[part] = values
                if compiled.split:
                    check_reach(request for request, _ in running)
            return outputs
        except RuntimeError as error:
            raise EngineError(f"{self.spec.name} failed in OpenVINO: {error}") from error

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

    def _compile(self, shapes: Mapping[str, tuple[int, ...]], only: str | None, count: int) -> _Compiled:
        """What computes `count` parts of these shapes, as many at the same time as there are threads for."""
        count = min(count, self._most_streams)
        key = only, count, *(shapes[tensor.name] for tensor in self.spec.inputs)
        if key not in self._compiled:
            model = self._model.clone()
            for result in [each for each in model.get_results() if only and only not in each.output(0).names]:
                model.remove_result(result)
            model.reshape({name: list(shape) for name, shape in shapes.items()})
            split = self._splits and split_long_attention(model)
            spread_attention(model)
            compiled = self._core.compile_model(model, "CPU", self._options | {"NUM_STREAMS": count})
            self._compiled[key] = _Compiled([compiled.create_infer_request() for _ in range(count)], split)
            if len(self._compiled) > _MOST_SHAPES:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return self._compiled[key]


def _start(running: Sequence[tuple[Any, slice]], feeds: Mapping[str, NDArray[Any]]) -> None:
    """Starts requests, each with its part of a batch; a lone one computes on this thread: others have to wake up."""
    given = [{name: values[part] for name, values in feeds.items()} for _, part in running]
    if len(running) == 1:
        running[0][0].infer(given[0], share_inputs=True, share_outputs=True)
        return
    for (request, _), values in zip(running, given, strict=True):
        request.start_async(values, share_inputs=True)


def rounds_to_bfloat16(bundle: Bundle, component: str, *, large: bool) -> bool:
    """Whether `precision="bf16"` computes this component in bfloat16: where that takes time and costs nothing.

    That is the denoiser; and the image encoder for label diffusion, where masks keep an IoU of .995 or more with those
    in float32, and of large models, whose encoder takes a quarter of a refinement in float32. The demo model's
    refinements depend on small latents' rounding more (.984), and its encoder takes little time.

    Args:
        bundle: where it comes from.
        component: its name.
        large: see `OpenVinoEngine`.
    """
    encoder = component == "vae_encoder" and (large or bundle.manifest.method == "gs")
    return encoder or component in _BFLOAT16_DENOISERS


def check_openvino(precision: str) -> None:
    """Checks that OpenVINO can compute in this precision here.

    Raises:
        BackendError: the CPU cannot.
        MissingDependencyError: OpenVINO is not installed.
    """
    capabilities = _import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in capabilities:
        raise BackendError(
            "this CPU has no instructions for bfloat16",
            hint="take precision fp32, or a CPU with AVX512-BF16 or AMX",
        )


def convert_graph(graph: Path, target: Path) -> None:
    """Writes an ONNX graph in OpenVINO's format, float32 weights kept, to `target` (``.xml``, with ``.bin`` beside).

    Raises:
        MissingDependencyError: OpenVINO, or the package onnx, is not installed.
        EngineError: the graph does not load.
    """
    openvino = _import_openvino()
    openvino.save_model(_read(openvino.Core(), graph), target, compress_to_fp16=False)


def openvino_recipe(bundle: Bundle, component: str, device: str) -> EngineRecipe:
    """What an engine of this component is made from.

    Raises:
        BundleError: there is no such component.
        BackendError: the device is not the CPU.
        MissingDependencyError: OpenVINO is not installed.
    """
    if device != "cpu":
        raise BackendError(f"OpenVINO serves the CPU here, not {device!r}", hint="choose device cpu")
    return EngineRecipe(
        component=component,
        graph=graph_hashes(bundle, component),
        backend="openvino",
        version=_import_openvino().__version__.partition("-")[0],
        precision=bundle.manifest.dtype,
        profile="dynamic",
        device="cpu",
        hardware="any",
    )


def _import_openvino() -> ModuleType:
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError("OpenVINO is not installed", hint=_HINT) from error
    return openvino  # type: ignore[no-any-return]  # mypy is told to skip it


def _read(core: Any, path: Path) -> Any:
    """The model of an ``.xml`` or ``.onnx`` file; OpenVINO refuses ONNX local functions, so that they are inlined."""
    if path.suffix == ".xml":
        return _read_model(core, path, path)
    try:
        import onnx
        from onnx.inliner import inline_local_functions
    except ImportError as error:
        raise MissingDependencyError("the package onnx is not installed", hint=_HINT) from error
    with tempfile.TemporaryDirectory() as scratch:
        flat = Path(scratch) / path.name
        try:
            model = onnx.load(path, load_external_data=False)
            onnx.save(inline_local_functions(model), flat)
        except Exception as error:  # protobuf's and onnx's errors have no common base but this
            raise EngineError(f"{path} does not load: {error}") from error
        external = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
        for name in {Path(entry.value).name for entry in external if entry.key == "location"}:
            shutil.copyfile(path.with_name(name), flat.with_name(name))  # OpenVINO follows no link
        return _read_model(core, flat, path)


def _read_model(core: Any, file: Path, named: Path) -> Any:
    try:
        return core.read_model(file)
    except RuntimeError as error:
        raise EngineError(f"{named} does not load in OpenVINO: {error}") from error


def _check_names(model: Any, spec: ComponentSpec, path: Path) -> None:
    for side, ports, tensors in (("inputs", model.inputs, spec.inputs), ("outputs", model.outputs, spec.outputs)):
        found, expected = {name for port in ports for name in port.names}, {tensor.name for tensor in tensors}
        if not expected <= found or len(ports) != len(tensors):
            raise EngineError(
                f"{path} has {side} {sorted(found)}, but {spec.name} should have {sorted(expected)}",
                hint="export the bundle again",
            )
