"""Bundle → engines: optimised once here, so that every start afterwards is faster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from segrefine.bundle import Bundle, Precision
from segrefine.engines.engine import BACKENDS, parse_device, unknown_backend
from segrefine.engines.onnxruntime import onnxruntime_recipe, optimize_graph
from segrefine.engines.openvino import convert_graph, openvino_recipe
from segrefine.engines.recipe import EngineRecipe, check_precision, find_engine, write_sidecar
from segrefine.engines.tensorrt import TensorRtOptions
from segrefine.engines.tensorrt.build import build_tensorrt, tensorrt_recipe
from segrefine.errors import BackendError, EngineError, SettingsError
from segrefine.storage import locked, output_errors, staging_folder, sync


@dataclass(frozen=True, kw_only=True)
class EngineFile:
    """An engine on disk.

    Attributes:
        component: name of the graph.
        path: the engine; its sidecar lies beside it.
        cached: it was there already, built by the same recipe.
    """

    component: str
    path: Path
    cached: bool


def build_engine(
    bundle: Bundle,
    *,
    backend: str,
    precision: Precision | None = None,
    device: str = "cpu",
    components: Iterable[str] | None = None,
    options: TensorRtOptions | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[EngineFile]:
    """The engines of a bundle, built where they are not there yet, in its folder ``engines/``.

    Args:
        bundle: the bundle.
        backend: one of `BACKENDS`.
        precision: of the graphs; another one than theirs is an error. None takes what there is.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; TensorRT builds for GPUs, whatever this says.
        components: which graphs; None takes all.
        options: what TensorRT builds for.
        overwrite: builds also what is there already.
        progress: called with a component's name when its turn comes.

    Raises:
        BackendError: the backend is unknown, or cannot serve the device.
        BundleError: there is no such component, or a file of it is not what the manifest says.
        EngineError: a graph does not load, or the builder failed.
        MissingDependencyError: the backend's library is not installed; the hint names the extra.
        OutputError: the bundle's folder cannot be written to.
        SettingsError: the bundle has another precision, or the backend no such options.
        ShapeError: the shapes of `options` do not go together.
    """
    if backend not in BACKENDS:
        raise unknown_backend(backend)
    tensorrt = backend.startswith("tensorrt")
    _check_options(backend, device, options or TensorRtOptions())
    if tensorrt and device != "cpu":
        _check_device(device)
    if isinstance(components, str):
        raise SettingsError(f"components is {components!r}, expected a list of names")
    check_precision(bundle, precision)
    engines = []
    for component in bundle.manifest.graphs if components is None else components:
        if progress:
            progress(component)
        recipe, make = _plan(bundle, component, backend, device, options or TensorRtOptions())
        engines.append(_build(bundle, recipe, make, overwrite=overwrite))
    return engines


def _check_options(backend: str, device: str, options: TensorRtOptions) -> None:
    """Raises SettingsError where the backend has no such options. ONNX Runtime has one, and only on a GPU."""
    if backend.startswith("tensorrt"):
        return
    on_gpu = backend == "onnxruntime" and parse_device(device)[0] == "cuda"
    if options != TensorRtOptions(tf32=on_gpu and options.tf32):
        hint = "add --device cuda" if backend == "onnxruntime" and options == TensorRtOptions(tf32=True) else None
        raise SettingsError(
            f"{backend} has no such options", hint=hint or "they are TensorRT's: add --backend tensorrt-rtx"
        )


def _check_device(device: str) -> None:
    """Raises BackendError unless TensorRT can build for the device."""
    if parse_device(device) != ("cuda", 0):
        raise BackendError(
            f"TensorRT builds for the first GPU, not for {device!r}",
            hint="leave --device out; CUDA_VISIBLE_DEVICES chooses another GPU",
        )


def _plan(
    bundle: Bundle, component: str, backend: str, device: str, options: TensorRtOptions
) -> tuple[EngineRecipe, Callable[[Path], None]]:
    """What an engine is made from, and what makes it in the file that it is given."""
    match backend:
        case "openvino":
            return openvino_recipe(bundle, component, device), lambda path: convert_graph(bundle.graph(component), path)
        case "tensorrt" | "tensorrt-rtx":
            recipe = tensorrt_recipe(bundle, component, backend, options)
            return recipe, lambda path: build_tensorrt(bundle, recipe, path, options)
        case _:
            recipe = onnxruntime_recipe(bundle, component, device, tf32=options.tf32)
            return recipe, lambda path: optimize_graph(bundle.graph(component), recipe, path, device)


def _build(bundle: Bundle, recipe: EngineRecipe, make: Callable[[Path], None], *, overwrite: bool) -> EngineFile:
    folder = recipe.folder(bundle)
    path = folder / f"{recipe.stem}{recipe.suffix}"
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if not overwrite and _is_current(bundle, recipe):
                return EngineFile(component=recipe.component, path=path, cached=True)
            with staging_folder(path) as staging:
                make(staging / path.name)
                write_sidecar(recipe, staging)
                _move_into_place(staging, path.with_suffix(".json"))
    return EngineFile(component=recipe.component, path=path, cached=False)


def _is_current(bundle: Bundle, recipe: EngineRecipe) -> bool:
    try:
        return find_engine(bundle, recipe) is not None
    except EngineError:  # stale or damaged: this is where it is built again
        return False


def _move_into_place(staging: Path, sidecar: Path) -> None:
    """Moves every file, the sidecar last: until it is there, the engine does not count."""
    sidecar.unlink(missing_ok=True)
    files = sorted(staging.iterdir(), key=lambda path: path.name == sidecar.name)
    sync(*files)
    for path in files:
        path.rename(sidecar.with_name(path.name))
    sync(sidecar.parent)
