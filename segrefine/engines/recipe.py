"""What an engine file was made from: the recipe in its sidecar, compared before the engine is ever loaded.

Layout: ``engines/<backend>/<component>/<stem>.onnx`` (``.xml`` for OpenVINO, ``.engine`` for TensorRT) with
``<stem>.json`` beside it. The sidecar is written last: an engine without one does not count.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segrefine.bundle import Bundle, Precision
from segrefine.errors import EngineError, IntegrityError, SettingsError
from segrefine.storage import FileRecord


@dataclass(frozen=True, kw_only=True)
class EngineRecipe:
    """Everything that shapes an engine; two engines with one recipe are the same.

    Attributes:
        component: name of the graph.
        graph: SHA-256 of the graph and of each file of its external data, by path in the bundle.
        backend: one of `BACKENDS`.
        version: version of the backend's library.
        precision: precision of the graph.
        profile: sizes that the engine serves, smallest, tuned and largest, such as ``"batch=1:2:4,tokens=77"``;
            ``"dynamic"`` for any.
        device: ``"cpu"`` or ``"cuda"``, whichever of its kind.
        hardware: what the engine was tuned to: instruction sets of the CPU, or compute capabilities of the GPUs.
        options: of the builder, what else shapes an engine.
    """

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
        return f"{self.precision}_{profile}_{self.version}_{machine}"

    @property
    def suffix(self) -> str:
        """The suffix of the engine itself."""
        return {"onnxruntime": ".onnx", "openvino": ".xml"}.get(self.backend, ".engine")

    def folder(self, bundle: Bundle) -> Path:
        """The folder of this component's engines."""
        return bundle.path / "engines" / self.backend / self.component

    def rebuild_command(self, bundle: Bundle) -> str:
        """The command that builds the engine again."""
        command = f"{rebuild_command(bundle, self.backend, self.device)} --components {self.component}"
        if self.suffix != ".engine":
            return command
        sizes = [size.partition("=")[::2] for size in self.profile.split(",")]
        for index, limit in enumerate(("min", "opt", "max")):
            shapes = ",".join(f"{symbol}={(3 * limits.split(':'))[index]}" for symbol, limits in sizes)
            command += f" --{limit}-shapes {shapes}"
        if self.backend == "tensorrt-rtx":
            for each in self.hardware.split("-"):
                command += f" --compute-capability {each[2:-1]}.{each[-1]}"
        given = {name.replace("_", "-"): value for name, value in self.options.items() if value is not None}
        return command + "".join(f" --{name} {value}" for name, value in given.items())


def rebuild_command(bundle: Bundle, backend: str, device: str) -> str:
    """The command that builds a bundle's engines again, for CPUs or for whichever GPU there is."""
    where = "" if backend.startswith("tensorrt") else f" --device {device}"
    return f"segrefine build-engine {shlex.quote(str(bundle.path))} --backend {backend}{where}"


def check_precision(bundle: Bundle, precision: Precision | None) -> None:
    """Checks that the bundle's graphs have the precision asked for; None asks for what there is.

    Raises:
        SettingsError: they have another one.
    """
    if precision not in (None, dtype := bundle.manifest.dtype):
        raise SettingsError(
            f"the graphs of {bundle.path} are {dtype}, not {precision}",
            hint=f"precision is decided at export: segrefine export MODEL BUNDLE --dtype {precision}",
        )


def graph_hashes(bundle: Bundle, component: str) -> dict[str, str]:
    """The SHA-256 of a component's graph and external data by path, as the manifest records them."""
    return {name: bundle.manifest.files[name].sha256 for name in bundle.graph_files(component)}


def write_sidecar(recipe: EngineRecipe, folder: Path) -> None:
    """Writes the recipe, its key and the record of every file in `folder` to the sidecar in `folder`."""
    files = {path.name: asdict(FileRecord.of(path)) for path in sorted(folder.iterdir())}
    content = {"key": recipe.key, **asdict(recipe), "files": files, "files_key": _files_key(files)}
    text = json.dumps(content, indent=2) + "\n"
    (folder / f"{recipe.stem}.json").write_text(text, encoding="utf-8")


def find_engine(bundle: Bundle, recipe: EngineRecipe) -> Path | None:
    """The engine that was built by this recipe, its files checked; None where none was built for this kind of device.

    Raises:
        EngineError: an engine was built for this kind of device, but from something else, or it is damaged.
    """
    folder = recipe.folder(bundle)
    sidecar = folder / f"{recipe.stem}.json"
    if not sidecar.exists():  # one of another version or GPU is an error, too: ignoring it would hide a slow start
        others = sorted(folder.glob("*_cpu.json" if recipe.device == "cpu" else "*_sm*.json"))
        if not others:
            return None
        sidecar = others[-1]
    hint = f"build it again: {recipe.rebuild_command(bundle)}"
    found = read_sidecar(sidecar, hint=hint)
    if found.get("key") != recipe.key:
        raise EngineError(f"the engine of {sidecar} is stale: {_difference(found, recipe)}", hint=hint)
    return check_files(bundle, sidecar, found, recipe, hint=hint)


def check_files(bundle: Bundle, sidecar: Path, content: Mapping[str, Any], recipe: EngineRecipe, *, hint: str) -> Path:
    """The engine of a sidecar, once every file is what its content says.

    Raises:
        EngineError: one is not, or the list of the files was altered.
    """
    files = content.get("files")
    if not isinstance(files, dict) or content.get("files_key") != _files_key(files):
        raise EngineError(f"the engine of {sidecar} is damaged: the list of its files was altered", hint=hint)
    try:
        for name, record in files.items():
            relative = f"{sidecar.parent.relative_to(bundle.path).as_posix()}/{name}"
            FileRecord(**record).check(bundle.path, relative, hint=hint)
    except IntegrityError as error:
        raise EngineError(f"the engine of {sidecar} is damaged: {error}", hint=hint) from error
    return sidecar.with_suffix(recipe.suffix)


def _files_key(files: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def read_sidecar(path: Path, *, hint: str) -> dict[str, Any]:
    """What a sidecar says.

    Args:
        path: the sidecar.
        hint: what to do where it cannot be read.

    Raises:
        EngineError: it cannot be read, or holds no JSON object.
    """
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"the engine's sidecar {path} cannot be read: {error}", hint=hint) from error
    if not isinstance(sidecar, dict):
        raise EngineError(f"the engine's sidecar {path} holds no JSON object", hint=hint)
    return sidecar


def _difference(sidecar: Mapping[str, Any], recipe: EngineRecipe) -> str:
    for name, here in asdict(recipe).items():
        if (there := sidecar.get(name)) != here:
            return "the graph was exported anew" if name == "graph" else f"built for {name} {there}, here it is {here}"
    return "its key does not match its recipe"
