"""The engines that a bundle holds, each checked as `load_engine` would check it, without being loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from segrefine.bundle import Bundle
from segrefine.engines import BACKENDS, Backend
from segrefine.engines.recipe import EngineRecipe, find_engine, graph_hashes, read_recipe
from segrefine.errors import BackendError, EngineError, MissingDependencyError
from segrefine.storage import read_json_object

State = Literal["current", "stale", "damaged"]
_TOLD = ("version", "precision", "device", "hardware")


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine on disk.

    Attributes:
        backend: what runs it.
        component: name of the graph.
        sidecar: path of its sidecar, relative to the bundle.
        recipe: what the sidecar says of version, precision, device and hardware; less where it does not.
        state: `current` is what would be loaded here, or, for GPUs, on one that it was built for; `stale` was built
            from another graph, or for something else.
        problem: why it is damaged, with the rebuild command as its hint; None where it is not.
        caches: size in bytes of each file that the backend's library keeps beside it, by the machine that it is for.
    """

    backend: str
    component: str
    sidecar: str
    recipe: Mapping[str, Any]
    state: State
    problem: EngineError | None
    caches: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The engine as JSON values."""
        names = {"backend": self.backend, "component": self.component, **self.recipe}
        return names | {
            "sidecar": self.sidecar,
            "state": self.state,
            "problem": self.problem and str(self.problem),
            "hint": self.problem and self.problem.hint,
            "runtime_caches": dict(self.caches),
        }


def list_engines(bundle: Bundle) -> list[BuiltEngine]:
    """Every engine of the bundle that has a sidecar, for whichever backend."""
    return [_describe(bundle, sidecar) for sidecar in sorted(bundle.path.glob("engines/*/*/*.json"))]


def _describe(bundle: Bundle, sidecar: Path) -> BuiltEngine:
    backend, component = sidecar.parts[-3:-1]
    found = BACKENDS.get(backend)
    said: Mapping[str, Any] = {}
    problem: EngineError | None = None
    state: State = "stale"  # as is what no component or backend asks for
    try:
        said = read_json_object(sidecar, EngineError, hint=_rebuild_hint(bundle, sidecar))
        if found and component in bundle.manifest.graphs and _is_current(bundle, found, sidecar, said):
            state = "current"
    except EngineError as error:
        state, problem = "damaged", error
    return BuiltEngine(
        backend=backend,
        component=component,
        sidecar=sidecar.relative_to(bundle.path).as_posix(),
        recipe={name: said[name] for name in _TOLD if name in said},
        state=state,
        problem=problem,
        caches=found.cache_sizes(sidecar) if found else {},
    )


def _is_current(bundle: Bundle, backend: Backend, sidecar: Path, said: Mapping[str, Any]) -> bool:
    """Return whether `load_engine` would load this engine here; if not, it is stale.

    Raises:
        EngineError: it would be loaded, but a file is not what the sidecar says.
    """
    recipe = _recipe(bundle, backend, sidecar, said)
    if recipe is None or sidecar.stem != recipe.stem or said.get("key") != recipe.key:
        return False
    engine = find_engine(bundle, recipe)
    if engine is None or not engine.is_file():  # a sidecar that does not list its engine
        message = f"the engine of {sidecar} is damaged: {sidecar.with_suffix(recipe.suffix)} is missing"
        raise EngineError(message, hint=f"build it again: {recipe.rebuild_command(bundle)}")
    return True


def _recipe(bundle: Bundle, backend: Backend, sidecar: Path, said: Mapping[str, Any]) -> EngineRecipe | None:
    """Return the recipe of an up-to-date engine for this machine.

    If its backend or its device is not to be had here, or its backend builds for other machines too, this is what the
    sidecar says, of the graph as it is now; None where the sidecar does not say enough.
    """
    component = sidecar.parts[-2]
    try:
        return backend.current_recipe(bundle, component, _device(sidecar))
    except (MissingDependencyError, BackendError):
        try:
            return replace(read_recipe(said, backend.recipe_kind), graph=graph_hashes(bundle, component))
        except EngineError:
            return None


def _device(sidecar: Path) -> str:
    return "cpu" if sidecar.stem.endswith("_cpu") else "cuda"


def _rebuild_hint(bundle: Bundle, sidecar: Path) -> str:
    name = sidecar.parts[-3]
    kind = BACKENDS[name].recipe_kind if name in BACKENDS else EngineRecipe
    return f"build it again: {kind.rebuild_all_command(bundle, name, _device(sidecar))}"
