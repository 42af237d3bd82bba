"""Bundle → engine, ready to run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import cast

from segrefine.bundle import Bundle
from segrefine.engines.cuda import open_gpu
from segrefine.engines.engine import (
    BACKENDS,
    Engine,
    EnginePrecision,
    check_threads,
    needs_gpu,
    parse_device,
    unknown_backend,
)
from segrefine.engines.hardware import gpu_identity, gpu_machine, usable_cores
from segrefine.engines.onnxruntime import OnnxRuntimeEngine, built_recipe
from segrefine.engines.openvino import OpenVinoEngine, openvino_recipe, rounds_to_bfloat16
from segrefine.engines.recipe import EngineRecipe, check_precision, find_current_engine
from segrefine.engines.tensorrt import Library, TensorRtOptions
from segrefine.engines.tensorrt.engine import TensorRtEngine, TensorRtEngines
from segrefine.engines.tensorrt.libraries import check_runtime, is_lean
from segrefine.engines.tensorrt.preflight import find_tensorrt_engines
from segrefine.engines.tensorrt.runtime import EnginePlan
from segrefine.errors import SettingsError

LARGE = 2**27
"""Bytes of a large graph and its weights.

In ONNX Runtime its attention gets a body of the runtime's own while loading, which delays that; see also
`OpenVinoEngine`.
"""


def load_engine(
    bundle: Bundle,
    component: str,
    backend: str = "onnxruntime",
    *,
    device: str = "cpu",
    precision: EnginePrecision | None = None,
    threads: int | None = None,
) -> Engine:
    """The engine of one component, on exactly the backend, device and precision asked for.

    This is the engine that `build_engine` made. Where none was built for this kind of device, it is made from the
    bundle's graph: the same results, after a slower start. TensorRT runs only what was built.

    Args:
        bundle: the bundle.
        component: name of the graph.
        backend: one of `BACKENDS`.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; TensorRT always takes a GPU, the first one for ``"cpu"``.
        precision: of the graph; another one than the bundle's is an error. None takes what there is. ``"bf16"``
            computes the denoiser of a float32 bundle in bfloat16, on OpenVINO.
        threads: CPU threads for one operator; None takes every core.

    Raises:
        BackendError: the backend is unknown, or cannot serve the device.
        BundleError: there is no such component, or a file of it is not what the manifest says.
        EngineError: the engine is damaged, or a stale one of TensorRT (the hint has the command that rebuilds it), or
            it does not load.
        MissingDependencyError: the backend's library is not installed; the hint names the extra.
        SettingsError: the bundle or the backend has another precision, or `threads` is out of range.
    """
    check_choice(bundle, backend, precision)
    large = _graph_size(bundle, component) >= LARGE
    match backend:
        case "onnxruntime":
            recipe = built_recipe(bundle, component, device)
            built = find_current_engine(bundle, recipe)
            graph = built or bundle.graph(component)
            spec = bundle.manifest.components[component]
            flash = built is None and recipe.options.get("attention") == "flash" and large
            tf32 = recipe.options.get("tf32", False)
            return OnnxRuntimeEngine(graph, spec, device, threads, optimized=built is not None, flash=flash, tf32=tf32)
        case "openvino":
            built = find_current_engine(bundle, openvino_recipe(bundle, component, device))
            reduced = precision == "bf16" and rounds_to_bfloat16(bundle, component, large=large)
            graph = built or bundle.graph(component)
            spec = bundle.manifest.components[component]
            return OpenVinoEngine(graph, spec, threads, precision="bf16" if reduced else "fp32", large=large)
        case _:  # `check_choice` has let through no other than TensorRT's
            return _load_tensorrt(bundle, component, cast(Library, backend), device)


def check_choice(bundle: Bundle, backend: str, precision: EnginePrecision | None) -> None:
    """Checks what can be told without loading anything: that there is such a backend, and that it has the precision.

    Raises:
        BackendError: there is none.
        SettingsError: the bundle or the backend has another precision.
    """
    if backend not in BACKENDS:
        raise unknown_backend(backend)
    if precision == "bf16" and backend != "openvino":
        raise SettingsError(f"{backend} does not compute in bf16", hint="add --backend openvino")
    check_precision(bundle, "fp32" if precision == "bf16" else precision)


def load_engines(
    bundle: Bundle,
    components: Sequence[str],
    backend: str = "onnxruntime",
    *,
    device: str = "cpu",
    precision: EnginePrecision | None = None,
    threads: int | None = None,
) -> dict[str, Engine]:
    """The engines of several components, by name; on the CPU as many are loaded at the same time as there are threads.

    Raises:
        SegrefineError: see `load_engine`; none stays open.
    """
    load = partial(load_engine, bundle, backend=backend, device=device, precision=precision, threads=threads)
    cores = usable_cores() if threads is None else check_threads(threads)
    most = 1 if needs_gpu(backend, device) else cores
    loading: dict[str, Future[Engine]] = {}
    with ExitStack() as stack:
        with ThreadPoolExecutor(min(most, len(components))) as pool:
            for name in sorted(components, key=partial(_graph_size, bundle), reverse=True):
                loading[name] = pool.submit(load, name)
                stack.callback(_close, loading[name])
            wait(loading.values())  # where a signal ends this, leaving the pool still waits for its threads
        engines = {name: loading[name].result() for name in components}
        stack.pop_all()
    return engines


def peak_memory(backend: str, device: str) -> int | None:
    """The most memory of its GPU that this process took, bytes, see `Gpu.peak`; None for engines on the CPU.

    Raises:
        BackendError: there is no such device.
    """
    _, index = parse_device(device)
    return open_gpu(index).peak if needs_gpu(backend, device) else None


def served_sizes(engine: Engine) -> list[dict[str, tuple[int, int]]]:
    """The sizes that an engine was built for: for each profile the least and the most of each symbol; none is any."""
    return engine.sizes if isinstance(engine, TensorRtEngines) else [{}]


def built_options(bundle: Bundle, component: str, backend: str, device: str) -> list[TensorRtOptions]:
    """What builds anew the engines that `load_engine` would load; nothing where the backend runs graphs as they are.

    Raises:
        SegrefineError: see `load_engine`.
    """
    match backend:
        case "tensorrt" | "tensorrt-rtx":
            _, index = parse_device(device)
            return [TensorRtOptions.of(recipe) for _, recipe in _find_tensorrt(bundle, component, backend, index)]
        case _:
            return []


def _close(loading: Future[Engine]) -> None:
    if loading.done() and not loading.exception():
        loading.result().close()


def _graph_size(bundle: Bundle, component: str) -> int:
    """Bytes of a graph and its weights."""
    return sum(bundle.manifest.files[name].size for name in bundle.graph_files(component))


def _load_tensorrt(bundle: Bundle, component: str, library: Library, device: str) -> TensorRtEngines:
    """The TensorRT engines that were built for the GPU. What must match is checked before TensorRT reads a file."""
    _, index = parse_device(device)  # "cpu" means the first GPU here: TensorRT runs on nothing else
    found = _find_tensorrt(bundle, component, library, index)
    with ExitStack() as stack:
        engines = []
        for path, recipe in found:
            plan = EnginePlan(
                path=path,
                spec=bundle.manifest.components[component],
                recipe=recipe,
                rebuild=recipe.rebuild_command(bundle),
                machine=gpu_machine(index),
            )
            engines.append(stack.enter_context(TensorRtEngine(plan, index)))
        stack.pop_all()  # all of them loaded
    return TensorRtEngines(engines)


def _find_tensorrt(bundle: Bundle, component: str, library: Library, index: int) -> list[tuple[Path, EngineRecipe]]:
    module = check_runtime(library, index)
    return find_tensorrt_engines(
        bundle,
        component,
        library,
        version=module.__version__,
        hardware=gpu_identity(index),
        lean=is_lean(module),
    )
