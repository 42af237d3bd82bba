"""The folder that export writes and everything else reads: manifest, checked files, and an all-or-nothing writer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, get_args

from segrefine.errors import BundleError, IntegrityError, OutputError
from segrefine.spec import ComponentSpec
from segrefine.storage import FileRecord, is_safe, output_errors, read_json_object, staging_folder, sync

if TYPE_CHECKING:
    from typing import Self

FORMAT_VERSION = 1
MANIFEST = "segrefine.json"
EXPORT_HINT = "export the bundle again with `segrefine export MODEL BUNDLE --overwrite`"

MAKE_HINT = "make a bundle with `segrefine export MODEL BUNDLE`; MODEL may be `photo`"

Precision = Literal["fp32", "fp16"]
Method = Literal["g4seg", "gs"]
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

_METHOD_HINTS: dict[Method, str] = {
    "g4seg": "use it with `segrefine refine`, or give a bundle that was exported from a label diffusion model",
    "gs": "use it with `segrefine segment`, or give a bundle that was exported from a text-to-image model",
}

_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "Precision": (str,),
    "Method": (str,),
    "tuple": (list,),
    "Mapping": (dict,),
}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of a bundle, in ``segrefine.json``.

    Attributes:
        method: ``"g4seg"`` refines masks, ``"gs"`` generates them.
        sample_size: side of the latent grid that the model was trained on, in latent pixels.
        latent_channels: channels of a latent.
        vae_scale_factor: image pixels per latent pixel, along one side.
        scaling_factor: latents are the VAE's mean times this.
        prediction_type: what the denoiser predicts: ``"epsilon"``, ``"v_prediction"`` or ``"sample"``.
        tokens: length of a tokenized prompt.
        dtype: precision of the graphs' floating-point inputs and outputs.
        opset: ONNX opset of the graphs.
        feature_taps: modules of the UNet whose outputs make up `features`.
        graphs: path of each component's graph, relative to the bundle.
        components: what each graph takes and gives; the same keys as `graphs`.
        ops: custom ops that the graphs use, as ``domain::name``.
        label_codec: of a label diffusion model, how masks become latents; see `segrefine.runtime.label_codec`. Else
            empty.
        settings: default settings of the method, for the runtime to read.
        zero_shot: settings of zero-shot segmentation that the model needs other values for.
        versions: versions of the libraries that made the bundle.
        quantized: of each component in eight bits, the scheme and how its masks compare with those of float32.
        files: record of every file but the manifest and the engines, by path relative to the bundle.
        format_version: version of this layout.
    """

    method: Method
    sample_size: int
    latent_channels: int
    vae_scale_factor: int
    scaling_factor: float
    prediction_type: str
    tokens: int
    dtype: Precision
    opset: int
    feature_taps: tuple[str, ...]
    graphs: Mapping[str, str]
    components: Mapping[str, ComponentSpec]
    ops: tuple[str, ...]
    label_codec: Mapping[str, Any]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    zero_shot: Mapping[str, Any] = field(default_factory=dict)
    quantized: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for name in ("sample_size", "latent_channels", "vae_scale_factor", "scaling_factor", "tokens"):
            if not getattr(self, name) > 0:
                raise BundleError(subject=name, expected="a positive number", got=getattr(self, name), hint=EXPORT_HINT)
        for name, allowed in (
            ("method", get_args(Method)),
            ("dtype", get_args(Precision)),
            ("prediction_type", PREDICTION_TYPES),
        ):
            if getattr(self, name) not in allowed:
                got = repr(getattr(self, name))
                raise BundleError(subject=name, expected=" or ".join(allowed), got=got, hint=EXPORT_HINT)
        if self.graphs.keys() != self.components.keys():
            expected = f"those of the components {sorted(self.components)}"
            raise BundleError(subject="graphs", expected=expected, got=sorted(self.graphs), hint=EXPORT_HINT)
        for relative in (*self.files, *self.graphs.values()):
            if not is_safe(relative):
                raise IntegrityError("the path leaves the bundle", subject=repr(relative), hint=EXPORT_HINT)

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON values; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The manifest that `to_dict` wrote.

        Raises:
            BundleError: another format version, or a value that is missing or not what it should be.
        """
        if (version := raw.get("format_version")) != FORMAT_VERSION:
            readable = f"{FORMAT_VERSION}, the one that this segrefine reads"
            raise BundleError(subject="format_version", expected=readable, got=repr(version), hint=EXPORT_HINT)
        values: dict[str, Any] = {}
        raw = {"zero_shot": {}, "quantized": {}, **raw}  # bundles of before have none
        for entry in fields(cls):
            expected = _JSON_TYPES[str(entry.type).partition("[")[0]]
            if not isinstance(raw.get(entry.name), expected) or isinstance(raw[entry.name], bool):
                got = repr(raw[entry.name]) if entry.name in raw else "nothing"
                raise BundleError(subject=entry.name, expected=expected[-1].__name__, got=got, hint=EXPORT_HINT)
            values[entry.name] = raw[entry.name]
        try:
            values |= {name: tuple(map(str, values[name])) for name in ("feature_taps", "ops")}
            values |= {name: {k: str(v) for k, v in values[name].items()} for name in ("graphs", "versions")}
            values["components"] = {name: ComponentSpec.from_dict(spec) for name, spec in raw["components"].items()}
            values["files"] = {name: FileRecord(**record) for name, record in raw["files"].items()}
            return cls(**values)
        except BundleError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"malformed entry: {error!r}", hint=EXPORT_HINT) from error


class Bundle:
    """An opened bundle: its manifest, and its files, each checked before it is handed out.

    Attributes:
        path: the folder.
        manifest: what it says about itself.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._checked: set[str] = set()

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """The bundle in the folder `path`; reads the manifest alone.

        Raises:
            BundleError: there is no bundle, or its manifest cannot be read.
        """
        path = Path(path)
        manifest_file = path / MANIFEST
        if not path.is_dir():
            raise BundleError("there is no such folder", subject=path, hint=MAKE_HINT)
        if manifest_file.is_symlink() and not manifest_file.exists():
            target = manifest_file.readlink()
            message = f"it is not a whole bundle: {MANIFEST} is a link to {target}, which is missing"
            hint = "copy what the links lead to as well: cp -rL, or hf download --local-dir"
            raise BundleError(message, subject=path, hint=hint)
        if not manifest_file.is_file():
            raise BundleError(f"it is not a bundle: it has no {MANIFEST}", subject=path, hint=MAKE_HINT)
        content = read_json_object(manifest_file, BundleError, hint=EXPORT_HINT)
        try:
            return cls(path, Manifest.from_dict(content))
        except BundleError as error:
            raise error.about(manifest_file) from error

    def check_method(self, method: str) -> None:
        """Checks that the bundle is for this method.

        Raises:
            BundleError: it is for the other one; the hint says what to do.
        """
        if self.manifest.method != method:
            does = {"g4seg": "refines masks", "gs": "generates masks"}
            raise BundleError(
                subject=self.path,
                expected=f"a model that {does[method]} ({method})",
                got=f"one that {does[self.manifest.method]} ({self.manifest.method})",
                hint=_METHOD_HINTS[self.manifest.method],
            )

    def file(self, relative: str) -> Path:
        """The path of one file of the bundle, checked once: listed, with the recorded size and SHA-256.

        It may be a link, as in the cache of a model hub.

        Raises:
            IntegrityError: one of these does not hold; the message names the file.
        """
        record = self.manifest.files.get(relative)
        if record is None:
            raise IntegrityError(f"it is not listed in {MANIFEST}", subject=self.path / relative, hint=EXPORT_HINT)
        if relative not in self._checked:
            record.check(self.path, relative, hint=EXPORT_HINT, links=True)
            self._checked.add(relative)
        return self.path / relative

    def graph_files(self, component: str) -> tuple[str, ...]:
        """The relative paths of a component's graph and, after it, of the external data in its folder.

        Raises:
            BundleError: there is no such component.
        """
        graph = self.manifest.graphs.get(component)
        if graph is None:
            hint = f"choose of: {', '.join(self.manifest.graphs)}"
            raise BundleError(f"it has no component {component!r}", subject=self.path, hint=hint)
        folder = graph.rpartition("/")[0]
        return graph, *(
            name for name in self.manifest.files if name.rpartition("/")[0] == folder and name.endswith(".onnx_data")
        )

    def graph(self, component: str) -> Path:
        """The path of a component's graph, checked together with its external data.

        Raises:
            BundleError: there is no such component.
            IntegrityError: a file is not what the manifest says.
        """
        return [self.file(relative) for relative in self.graph_files(component)][0]

    def read_json(self, relative: str) -> dict[str, Any]:
        """The content of a JSON file of the bundle, checked first.

        Raises:
            BundleError: the file is not what the manifest says, or holds no JSON object.
        """
        return read_json_object(self.file(relative), BundleError, hint=EXPORT_HINT)

    def verify(self) -> None:
        """Checks every file that the manifest lists.

        Raises:
            IntegrityError: names the first file that is not what the manifest says.
        """
        for relative in self.manifest.files:
            self.file(relative)


class BundleWriter:
    """A context in which a bundle is written beside its place, and moved there as a whole by `finish`.

    Leaving the context without `finish`, or by an error, leaves nothing behind.

    Attributes:
        path: where the bundle will be.
        directory: the temporary folder to write the bundle's files into; set once the context is entered.
    """

    directory: Path

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path).resolve()
        self.overwrite = overwrite
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Makes the temporary folder.

        Raises:
            OutputError: the place is taken, or cannot be written to.
        """
        self._check_place()
        self.directory = self._stack.enter_context(staging_folder(self.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def finish(self, manifest: Manifest) -> Bundle:
        """The finished bundle: records every file written, adds the manifest last, and moves all into place.

        Args:
            manifest: all but `files`, which is filled in here.

        Raises:
            BundleError: the manifest names a graph that was not written.
            OutputError: the place was taken meanwhile, or cannot be written to.
        """
        with output_errors(self.path):
            written = sorted(path for path in self.directory.rglob("*") if path.is_file())
            for path in written:  # onnx writes external data for its owner alone
                path.chmod(self.directory.stat().st_mode & 0o666)
            records = {path.relative_to(self.directory).as_posix(): FileRecord.of(path) for path in written}
            if lacking := sorted(set(manifest.graphs.values()) - records.keys()):
                raise BundleError(f"the graph {lacking[0]} was not written to {self.directory}")
            manifest = replace(manifest, files=records)
            text = json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False) + "\n"
            (self.directory / MANIFEST).write_text(text, encoding="utf-8")
            sync(self.directory, *self.directory.rglob("*"))
            self._check_place()
            self._move_into_place()
            sync(self.path.parent)
        return Bundle(self.path, manifest)

    def _check_place(self) -> None:
        with output_errors(self.path):
            if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
                return
            if not (self.path / MANIFEST).is_file():
                raise OutputError(
                    "it exists and is not a bundle", subject=self.path, hint="choose another place for the bundle"
                )
            if not self.overwrite:
                raise OutputError(
                    "the bundle exists already", subject=self.path, hint="add --overwrite, or choose another place"
                )

    def _move_into_place(self) -> None:
        # Were this killed between the renames, the next writer would find the name and remove what is left.
        retired = self.directory.with_name(self.directory.name + "-replaced")
        if self.path.exists():
            self.path.rename(retired)
        try:
            self.directory.rename(self.path)
        except OSError:
            if retired.exists():
                retired.rename(self.path)
            raise
        shutil.rmtree(retired, ignore_errors=True)
