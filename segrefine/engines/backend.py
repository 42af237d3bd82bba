"""Interface of every backend. Each has one object of this kind in a folder of its own; `backends` has the table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from segrefine.bundle import Bundle
from segrefine.engines.engine import Engine, EnginePrecision, parse_device
from segrefine.engines.options import BuildOptions, EngineOptions
from segrefine.engines.recipe import EngineRecipe
from segrefine.errors import SegrefineError

Task = Literal["run", "build"]
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class Ability:
    """One thing that a backend can do, or cannot do here.

    Attributes:
        backend: its name.
        task: `run` engines, or `build` them.
        where: the device, or what engines are built for.
        problem: why it cannot; None where it can.
        hint: what to do about it.
    """

    backend: str
    task: Task
    where: str
    problem: str | None = None
    hint: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Backend(ABC):
    """One way to run graphs. All that segrefine does differently from backend to backend is asked here.

    Attributes:
        name: on the command line, and in paths of engines.
        title: of its library, for messages.
        modules: what must be installed, as Python imports it; any of them will do.
        packages: that `doctor` lists, by the names that pip knows.
        devices: kinds of devices that it runs on, of `DEVICES`. Where `cpu` is none of them, `cpu` means the first GPU.
        precisions: what it can compute in other than the graphs' own precision.
        recipe_kind: class of its recipes.
        build_options: names of `BuildOptions` that it knows, each with the kinds of devices for which it takes them;
            none where `recipe` says why it does not take one.
        needs_build: whether it only runs what `build_engine` made, and not the graphs themselves.
    """

    name: str
    title: str
    modules: tuple[str, ...]
    packages: tuple[str, ...] = ()
    devices: tuple[str, ...] = DEVICES
    precisions: tuple[EnginePrecision, ...] = ()
    recipe_kind: type[EngineRecipe]
    build_options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    needs_build: bool = False

    @abstractmethod
    def recipe(self, bundle: Bundle, component: str, device: str, options: BuildOptions) -> EngineRecipe:
        """Return the recipe of an engine for this component on this machine.

        Raises:
            BackendError: it does not serve the device.
            BundleError: there is no such component.
            MissingDependencyError: its library is not installed; the hint names the extra.
        """

    @abstractmethod
    def build(self, bundle: Bundle, recipe: EngineRecipe, target: Path, device: str, options: BuildOptions) -> None:
        """Write the engine of a recipe to `target`, a file in an empty folder.

        Raises:
            EngineError: the graph does not load, or the builder failed.
        """

    @abstractmethod
    def load(self, bundle: Bundle, component: str, options: EngineOptions) -> Engine:
        """The engine of one component; see `load_engine`."""

    @abstractmethod
    def abilities(self) -> Iterator[Ability]:
        """Yield the abilities of the backend on this machine, found by trying."""

    def current_recipe(self, bundle: Bundle, component: str, device: str) -> EngineRecipe:
        """The recipe of the engine that `load` would take.

        Raises:
            BackendError: it does not serve the device, or its engines may be for other machines.
            SegrefineError: see `recipe`.
        """
        return self.recipe(bundle, component, device, BuildOptions())

    def built_options(self, bundle: Bundle, component: str, device: str) -> list[BuildOptions]:
        """Return the options that rebuild the engines `load` would take; empty if graphs run as they are."""
        return []

    def check_build_device(self, device: str) -> None:
        """Check that it can build for a device.

        Raises:
            BackendError: it cannot.
        """
        parse_device(device)

    def check_builder(self) -> None:
        """Check that it can build engines here, as far as that is known before building.

        Raises:
            MissingDependencyError: a package is missing.
        """
        return None

    def is_installed(self) -> bool:
        """Return whether its library is installed."""
        return any(find_spec(name) is not None for name in self.modules)

    def is_ready(self, bundle: Path, index: int) -> bool:
        """Return whether "auto" may choose it for a bundle.

        Args:
            bundle: the bundle's folder.
            index: number of the device.
        """
        return self.is_installed()

    def cache_sizes(self, sidecar: Path) -> Mapping[str, int]:
        """Bytes of each file that its library keeps beside an engine, by the machine that it is for."""
        return {}

    def conflicts(self, installed: Collection[str]) -> Iterator[str]:
        """Yield packages that must not be installed together; `installed` has packages of `packages`."""
        return iter(())

    def gaps(self) -> Iterator[str]:
        """Yield things that the library may need here and does not find."""
        return iter(())

    def serves(self, device: str, precision: EnginePrecision | None) -> bool:
        """Return whether it runs on a kind of device, and can compute in a precision that graphs do not have."""
        return device in self.devices and (precision is None or precision in (*GRAPH_PRECISIONS, *self.precisions))

    def _try(self, task: Task, where: str, *attempts: Callable[[], object]) -> Ability:
        """An ability, which all attempts must not refuse."""
        try:
            for attempt in attempts:
                attempt()
        except SegrefineError as error:
            return Ability(backend=self.name, task=task, where=where, problem=str(error), hint=error.hint)
        return Ability(backend=self.name, task=task, where=where)


GRAPH_PRECISIONS: tuple[EnginePrecision, ...] = ("fp32", "fp16")
"""What graphs are exported in."""
