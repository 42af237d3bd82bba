"""Recipe of an engine file, kept in its sidecar and compared before the engine is ever loaded.

Layout: ``engines/<backend>/<component>/<stem><suffix>`` with ``<stem>.json`` beside it. The sidecar is written last: an
engine without one does not count.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from segrefine.bundle import Bundle, Precision
from segrefine.errors import EngineError, EngineWarning, IntegrityError, SettingsError, StaleEngineError
from segrefine.storage import FileRecord, read_json_object

LARGE = 2**27
"""Bytes of a large graph and its weights: there, work done once while loading pays off."""


@dataclass(frozen=True, kw_only=True)
class EngineRecipe:
    """Everything that shapes an engine; two engines with one recipe are the same.

    A backend has a class of its own, with the suffix of its engines, and with what else names or rebuilds them.

    Attributes:
        suffix: of the engine itself.
        component: name of the graph.
        graph: SHA-256 of the graph and of each file of its external data, by path in the bundle.
        backend: name of the backend.
        version: version of the backend's library.
        precision: precision of the graph.
        profile: sizes that the engine serves, smallest, tuned and largest, such as ``"batch=1:2:4,tokens=77"``;
            ``"dynamic"`` for any.
        device: ``"cpu"`` or ``"cuda"``, whichever of its kind.
        hardware: what the engine was tuned to: instruction sets of the CPU, or compute capabilities of the GPUs.
        options: of the builder, what else shapes an engine.
    """

    suffix: ClassVar[str]

    component: str
    graph: Mapping[str, str]
    backend: str
    version: str
    precision: Precision
    profile: str
    device: str
    hardware: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The hash of everything above, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def stem(self) -> str:
        """The name of the engine's files, less the suffix."""
        machine = self.hardware if self.device == "cuda" else "cpu"
        profile = self.profile.replace("=", "").replace(":", "-").replace(",", "_")
        return f"{self.precision}_{profile}_{self.version}{self._mark()}_{machine}"

    def _mark(self) -> str:
        """Return the part of the file name that the options determine."""
        return ""

    def folder(self, bundle: Bundle) -> Path:
        """The folder of this component's engines."""
        return bundle.path / "engines" / self.backend / self.component

    @classmethod
    def rebuild_all_command(cls, bundle: Bundle, backend: str, device: str) -> str:
        """The command that builds a bundle's engines again, for a kind of device."""
        return f"{build_command(bundle, backend)} --device {device}"

    def rebuild_command(self, bundle: Bundle) -> str:
        """The command that builds the engine again."""
        return f"{self.rebuild_all_command(bundle, self.backend, self.device)} --components {self.component}"

    def check_form(self) -> None:
        """Check what a sidecar said, as far as commands and names are made of it.

        Raises:
            EngineError: an entry has another form.
        """


RecipeT = TypeVar("RecipeT", bound=EngineRecipe)


def read_recipe(sidecar: Mapping[str, Any], kind: type[RecipeT]) -> RecipeT:
    """The recipe in a sidecar's content; `key` tells whether it was altered.

    Args:
        sidecar: its content.
        kind: class of the backend's recipes.

    Raises:
        EngineError: it lacks an entry, or has one of another form.
    """
    names = [entry.name for entry in fields(kind)]
    if missing := [name for name in names if name not in sidecar]:
        raise EngineError(subject="its sidecar", expected=f"an entry {missing[0]!r}", got="none")
    recipe = kind(**{name: sidecar[name] for name in names})
    texts = [value for name, value in asdict(recipe).items() if name not in ("graph", "options")]
    if not all(isinstance(text, str) for text in texts) or not isinstance(recipe.options, Mapping):
        raise EngineError("it has entries of another form", subject="its sidecar")
    recipe.check_form()
    return recipe


def build_command(bundle: Bundle, backend: str) -> str:
    """The command that builds a bundle's engines for a backend."""
    return f"segrefine build-engine {shlex.quote(str(bundle.path))} --backend {backend}"


def check_precision(bundle: Bundle, precision: Precision | None) -> None:
    """Checks that the bundle's graphs have the precision asked for; None asks for what there is.

    Raises:
        SettingsError: they have another one.
    """
    if precision not in (None, dtype := bundle.manifest.dtype):
        raise SettingsError(
            subject="precision",
            expected=f"{dtype}, as the graphs of {bundle.path} have it",
            got=precision,
            hint=f"precision is decided at export: segrefine export MODEL BUNDLE --dtype {precision}",
        )


def graph_hashes(bundle: Bundle, component: str) -> dict[str, str]:
    """The SHA-256 of a component's graph and external data by path, as the manifest records them."""
    return {name: bundle.manifest.files[name].sha256 for name in bundle.graph_files(component)}


def is_large(bundle: Bundle, component: str) -> bool:
    """Return whether a graph and its weights have `LARGE` bytes or more."""
    return graph_size(bundle, component) >= LARGE


def is_large_model(bundle: Bundle) -> bool:
    """Return whether any of the graphs is large."""
    return any(is_large(bundle, name) for name in bundle.manifest.graphs)


def graph_size(bundle: Bundle, component: str) -> int:
    """Bytes of a graph and its weights."""
    return sum(bundle.manifest.files[name].size for name in bundle.graph_files(component))


def write_sidecar(recipe: EngineRecipe, folder: Path) -> None:
    """Writes the recipe, its key and the record of every file in `folder` to the sidecar in `folder`."""
    files = {path.name: asdict(FileRecord.of(path)) for path in sorted(folder.iterdir())}
    content = {"key": recipe.key, **asdict(recipe), "files": files, "files_key": _files_key(files)}
    text = json.dumps(content, indent=2) + "\n"
    (folder / f"{recipe.stem}.json").write_text(text, encoding="utf-8")


def find_engine(bundle: Bundle, recipe: EngineRecipe) -> Path | None:
    """The engine that was built by this recipe, its files checked; None where none was built for this kind of device.

    Raises:
        StaleEngineError: an engine was built for this kind of device, but from something else.
        EngineError: it is damaged.
    """
    folder = recipe.folder(bundle)
    sidecar = folder / f"{recipe.stem}.json"
    if not sidecar.exists():  # one of another version or GPU is an error, too: ignoring it would hide a slow start
        others = sorted(folder.glob("*_cpu.json" if recipe.device == "cpu" else "*_sm*.json"))
        if not others:
            return None
        sidecar = others[-1]
    hint = f"build it again: {recipe.rebuild_command(bundle)}"
    found = read_json_object(sidecar, EngineError, hint=hint)
    if found.get("key") != recipe.key:
        message = f"the engine is stale: {_difference(found, recipe)}"
        command = recipe.rebuild_all_command(bundle, recipe.backend, recipe.device)
        raise StaleEngineError(message, subject=sidecar, hint=f"build all again: {command}")
    return check_files(bundle, sidecar, found, recipe, hint=hint)


def find_current_engine(bundle: Bundle, recipe: EngineRecipe) -> Path | None:
    """Find an engine as `find_engine` does, and leave a stale one out with an `EngineWarning`.

    For backends that run graphs as well as built engines: the results are the same, and the start is slower.

    Raises:
        EngineError: the engine is damaged.
    """
    try:
        return find_engine(bundle, recipe)
    except StaleEngineError as error:
        warnings.warn(f"{error}. The graph is used, which starts slower; {error.hint}", EngineWarning, stacklevel=2)
        return None


def check_files(bundle: Bundle, sidecar: Path, content: Mapping[str, Any], recipe: EngineRecipe, *, hint: str) -> Path:
    """The engine of a sidecar, once every file is what its content says.

    Raises:
        EngineError: one is not, or the list of the files was altered.
    """
    files = content.get("files")
    if not isinstance(files, dict) or content.get("files_key") != _files_key(files):
        raise EngineError("the engine is damaged: the list of its files was altered", subject=sidecar, hint=hint)
    try:
        for name, record in files.items():
            relative = f"{sidecar.parent.relative_to(bundle.path).as_posix()}/{name}"
            FileRecord(**record).check(bundle.path, relative, hint=hint)
    except IntegrityError as error:
        raise EngineError(f"the engine is damaged: {error}", subject=sidecar, hint=hint) from error
    return sidecar.with_suffix(recipe.suffix)


def _files_key(files: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _difference(sidecar: Mapping[str, Any], recipe: EngineRecipe) -> str:
    for name, here in asdict(recipe).items():
        if (there := sidecar.get(name)) != here:
            return "the graph was exported again" if name == "graph" else f"built for {name} {there}, here it is {here}"
    return "its key does not match its recipe"
