"""Bundle → engines: optimised once here, so that every start afterwards is faster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from segrefine.bundle import Bundle, Precision
from segrefine.engines.backend import Backend
from segrefine.engines.backends import find_backend, join_names, needs_gpu, taking
from segrefine.engines.engine import parse_device
from segrefine.engines.options import BuildOptions
from segrefine.engines.part import find_parts
from segrefine.engines.recipe import EngineRecipe, check_precision, find_engine, write_sidecar
from segrefine.errors import EngineError, SettingsError
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
    options: BuildOptions | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[EngineFile]:
    """The engines of a bundle, built where they are not there yet, in its folder ``engines/``.

    Args:
        bundle: the bundle.
        backend: a name in `BACKENDS`.
        precision: of the graphs; another one than theirs is an error. None takes what there is.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``. A backend that runs on GPUs only builds for one either way.
        components: which graphs; None takes all, but for those that `load_engines` serves by another one's engine.
        options: what the engines are built for.
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
    builder, chosen = find_backend(backend), options or BuildOptions()
    _check_options(builder, device, chosen)
    builder.check_build_device(device)
    if isinstance(components, str):
        raise SettingsError(
            subject="components", expected="a list of names", got=repr(components), hint=f"such as [{components!r}]"
        )
    check_precision(bundle, precision)
    engines = []
    if components is None:  # of what another one gives too, `load_engines` needs no engine of its own
        served = {} if needs_gpu(backend, device) else find_parts(bundle, list(bundle.manifest.graphs))
        components = [name for name in bundle.manifest.graphs if name not in served]
    for component in components:
        if progress:
            progress(component)
        recipe = builder.recipe(bundle, component, device, chosen)
        make = partial(builder.build, bundle, recipe, device=device, options=chosen)
        engines.append(_build(bundle, recipe, make, overwrite=overwrite))
    return engines


def _check_options(backend: Backend, device: str, options: BuildOptions) -> None:
    """Raises SettingsError where the backend has no such option, or has it for another kind of device only."""
    kind, _ = parse_device(device)
    for option in options.changed:
        taken_for = backend.build_options.get(option)
        if taken_for is None:
            others = taking(option)
            raise SettingsError(
                f"{backend.name} has no such options: {option}",
                hint=f"it is an option of {join_names(others)}: add --backend {others[-1]}" if others else None,
            )
        if taken_for and kind not in taken_for:
            raise SettingsError(
                f"{backend.name} has no such options on {kind}: {option}", hint=f"add --device {taken_for[0]}"
            )


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
