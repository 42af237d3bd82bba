"""Bundle → engine, ready to run."""

from __future__ import annotations

from segrefine.bundle import Bundle, Precision
from segrefine.engines.engine import Engine, unknown_backend
from segrefine.engines.onnxruntime import OnnxRuntimeEngine, onnxruntime_recipe
from segrefine.engines.recipe import check_precision, find_engine


def load_engine(
    bundle: Bundle,
    component: str,
    backend: str = "onnxruntime",
    *,
    device: str = "cpu",
    precision: Precision | None = None,
    threads: int | None = None,
) -> Engine:
    """The engine of one component, on exactly the backend, device and precision asked for.

    With ``"onnxruntime"`` this is the engine that `build_engine` made. Where none was built for this kind of device, it
    is the bundle's graph itself: the same results, after a slower start.

    Args:
        bundle: the bundle.
        component: name of the graph.
        backend: one of `BACKENDS`.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        precision: of the graph; another one than the bundle's is an error. None takes what there is.
        threads: CPU threads for one operator; None takes every core.

    Raises:
        BackendError: the backend is unknown, or cannot serve the device.
        BundleError: there is no such component, or a file of it is not what the manifest says.
        EngineError: the engine is stale or damaged (the hint has the command that rebuilds it), or does not load.
        MissingDependencyError: the backend's library is not installed; the hint names the extra.
        SettingsError: the bundle has another precision, or `threads` is below 1.
    """
    check_precision(bundle, precision)
    match backend:
        case "onnxruntime":
            built = find_engine(bundle, onnxruntime_recipe(bundle, component, device))
            graph = built or bundle.graph(component)
            spec = bundle.manifest.components[component]
            return OnnxRuntimeEngine(graph, spec, device, threads, optimized=built is not None)
        case _:
            raise unknown_backend(backend)
