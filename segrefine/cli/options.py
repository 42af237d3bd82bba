"""Options that several commands have."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from segrefine.cli.backend_help import BackendOption
from segrefine.cli.paths import GivenPath
from segrefine.samplers import SAMPLERS

if TYPE_CHECKING:
    from segrefine.engines import EngineOptions, EnginePrecision
    from segrefine.runtime.engine_set import PipelineSetup
    from segrefine.runtime.pipeline import Refiner
    from segrefine.runtime.segmenter import Segmenter
    from segrefine.runtime.zero_shot import ZeroShotSegmenter
    from segrefine.settings import Settings

SettingsT = TypeVar("SettingsT", bound="Settings")

backend_option = click.option(
    "--backend",
    default="auto",
    show_default=True,
    metavar="NAME",
    cls=BackendOption,
    help="Backend that runs the graphs: {backends}; auto: the best one here.",
)
device_option = click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="DEVICE",
    cls=BackendOption,
    help="Device to run on: cpu, cuda or cuda:N. Always a GPU for {gpu_only}.",
)


crop_option = click.option(
    "--crop/--no-crop",
    default=True,
    show_default=True,
    help="Refine an object that covers less than 1 % of the image in a crop around it.",
)
guard_option = click.option(
    "--guard/--no-guard",
    default=True,
    show_default=True,
    help="Undo changes that cannot be trusted.",
)


class BundleFolder(GivenPath):
    """The folder of a bundle; `photo`, `photo-gs`, `demo` and `demo-gs` are those that ship with segrefine."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """The folder, which need not exist."""
        from segrefine.assets import SHIPPED_BUNDLES

        return SHIPPED_BUNDLES.get(str(value)) or super().convert(value, param, ctx)


class SamplerName(click.ParamType):  # type: ignore[type-arg]  # click takes no type there before 8.4
    """The name of a sampler."""

    name = "sampler"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The names that there are. click 8.1 gives no context."""
        return f"[{'|'.join(SAMPLERS)}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if there is such a sampler."""
        if value not in SAMPLERS:
            self.fail(f"{value!r} is not one of {', '.join(SAMPLERS)}", param, ctx)
        return value


def name_of_bundle(folder: Path) -> str:
    """Return the name of a bundle where several are served: that of a shipped one, or its folder's name."""
    from segrefine.assets import shipped_name

    return shipped_name(folder) or folder.resolve().name


@dataclass(frozen=True, kw_only=True)
class SettingsChoice:
    """Changes to a bundle's settings, in the order in which they count.

    Attributes:
        preset: name of a preset.
        file: JSON file with values by name.
        values: names of settings, each with its value as text.
        edges: whether the edge step runs; None for what the settings say.
    """

    preset: str | None = None
    file: Path | None = None
    values: tuple[tuple[str, str], ...] = ()
    edges: bool | None = None

    def __bool__(self) -> bool:
        """Return whether anything is changed."""
        return self != SettingsChoice()

    def names(self, setting: str) -> bool:
        """Return whether a setting may have been chosen: by its name, or among others by a preset or a file."""
        return bool(self.preset or self.file) or setting in dict(self.values)

    def apply_to(self, bundle: Path) -> Settings:
        """The settings of a bundle with the changes.

        Args:
            bundle: its folder.

        Raises:
            BundleError: there is no such bundle.
            SettingsError: there is no such preset or setting, or a value is wrong.
        """
        from segrefine.bundle import Bundle
        from segrefine.settings import BUNDLE_SETTINGS

        manifest = Bundle.open(bundle).manifest
        return self.apply(BUNDLE_SETTINGS[manifest.method].from_dict(manifest.settings))

    def apply(self, base: SettingsT) -> SettingsT:
        """Other settings: first the preset counts, then the file, then single values.

        Raises:
            SettingsError: there is no such preset or setting, or a value is wrong.
        """
        from segrefine.errors import SettingsError
        from segrefine.storage import read_json_object

        changed = base.with_preset(self.preset) if self.preset else base
        if self.file:
            hint = 'write an object in JSON, such as {"noises": 1}'
            changed = changed.with_changes(read_json_object(self.file, SettingsError, hint=hint))
        single = {name: base.read_value(name, text) for name, text in self.values}
        return changed.with_changes(single if self.edges is None else single | {"edges": self.edges})


def _split_values(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Names and values of `NAME=VALUE`, given any number of times."""
    for text in texts:
        if not text.partition("=")[0].strip() or "=" not in text:
            raise click.BadParameter(f"expected NAME=VALUE, such as noises=1; got {text!r}")
    parts = (text.partition("=") for text in texts)
    return tuple((name.strip(), value.strip()) for name, _, value in parts)


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that change the method's settings, and an argument `choice` for them."""

    @click.option("--preset", metavar="NAME", help="Preset of the settings: default or fast; for refining also paper.")
    @click.option(
        "--settings",
        "file",
        metavar="FILE",
        type=GivenPath(exists=True, dir_okay=False),
        help="JSON file with values of settings. They win over the preset's.",
    )
    @click.option(
        "--set",
        "values",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_split_values,
        help="Value of one setting, such as noises=1 (docs/method.md). Can be repeated, and wins over the file's.",
    )
    @click.option(
        "--edges/--no-edges", default=None, help="Move the mask's border to the image's edges.  [default: edges]"
    )
    @wraps(command)
    def gathered(
        *args: Any,
        preset: str | None,
        file: Path | None,
        values: tuple[tuple[str, str], ...],
        edges: bool | None,
        **rest: Any,
    ) -> None:
        command(*args, choice=SettingsChoice(preset=preset, file=file, values=values, edges=edges), **rest)

    return gathered


@dataclass(frozen=True, kw_only=True)
class Model:
    """A bundle, and how its engines run.

    Attributes:
        bundle: its folder; None for the model of the method that ships with segrefine.
        engines: how its engines run; the backend "auto" becomes the best one here, see `choose_backend`.
    """

    bundle: Path | None
    engines: EngineOptions

    def __post_init__(self) -> None:
        """Replace "auto" by the backend that it stands for here."""
        from segrefine.engines import choose_backend

        asked = self.engines
        chosen = choose_backend(asked.backend, self.folder, asked.device, asked.precision)
        object.__setattr__(self, "engines", replace(asked, backend=chosen))

    @property
    def folder(self) -> Path:
        """Return the folder of the bundle; of the model that refines where none was named."""
        from segrefine.assets import photo_bundle

        return self.bundle or photo_bundle()

    @property
    def shipped(self) -> str | None:
        """The word of a model that ships with segrefine and was named; None for another one, or where none was."""
        from segrefine.assets import shipped_name

        return shipped_name(self.bundle) if self.bundle else None

    @property
    def is_shipped(self) -> bool:
        """Return whether a model serves that ships with segrefine."""
        return self.bundle is None or self.shipped is not None

    def open(self, choice: SettingsChoice | None = None) -> Refiner:
        """Open the refiner; the caller closes it.

        Args:
            choice: changes to the bundle's settings.

        Raises:
            SegrefineError: see `Refiner.from_bundle` and `SettingsChoice.apply`.
        """
        from segrefine.runtime.pipeline import Refiner

        self._check_method(Refiner.method)
        return Refiner.from_setup(self.setup(choice))

    def setup(self, choice: SettingsChoice | None = None) -> PipelineSetup:
        """Return the setup that opens the refiner, here or in another process.

        Args:
            choice: changes to the bundle's settings.

        Raises:
            SegrefineError: see `SettingsChoice.apply`.
        """
        from segrefine.runtime.engine_set import PipelineSetup

        settings = choice.apply_to(self.folder) if choice else None
        return PipelineSetup(bundle=self.folder, engines=self.engines, settings=settings)

    def open_segmenter(self, choice: SettingsChoice | None = None) -> Segmenter:
        """Open the segmenter; the caller closes it.

        Args:
            choice: changes to the bundle's settings.

        Raises:
            SegrefineError: see `Segmenter.from_bundle` and `SettingsChoice.apply`.
        """
        from segrefine.assets import photo_gs_bundle
        from segrefine.runtime.segmenter import Segmenter

        self._check_method(Segmenter.method)
        return Segmenter.from_setup(replace(self, bundle=self.bundle or photo_gs_bundle()).setup(choice))

    def open_zero_shot(self, choice: SettingsChoice | None = None) -> ZeroShotSegmenter:
        """Open the zero-shot segmenter; the caller closes it.

        Args:
            choice: changes to the method's settings.

        Raises:
            SegrefineError: see `ZeroShotSegmenter.from_bundle` and `SettingsChoice.apply`.
        """
        from segrefine.bundle import Bundle
        from segrefine.runtime.engine_set import PipelineSetup
        from segrefine.runtime.zero_shot import ZeroShotSegmenter
        from segrefine.settings import ZeroShotSettings

        settings = None
        if choice:
            settings = choice.apply(ZeroShotSettings.from_dict(Bundle.open(self.folder).manifest.zero_shot))
        setup = PipelineSetup(bundle=self.folder, engines=self.engines, settings=settings)
        return ZeroShotSegmenter.from_setup(setup)

    def _check_method(self, method: str) -> None:
        """Check that a bundle that was named is for a method, before settings of that method are looked for in it.

        Raises:
            BundleError: it is for another one.
        """
        from segrefine.bundle import Bundle

        if self.bundle:
            Bundle.open(self.bundle).check_method(method)

    def describe_lack(self) -> str | None:
        """A sentence where neither settings nor guard were fitted to a model that refines; else None.

        Raises:
            BundleError: there is no bundle.
        """
        from segrefine.bundle import Bundle
        from segrefine.runtime.guard import GUARD

        if self.is_shipped or self.bundle is None:
            return None
        manifest = Bundle.open(self.bundle).manifest
        if manifest.method != "g4seg" or GUARD in manifest.files:
            return None
        command = f"segrefine tune DATA TRUTH --bundle {shlex.quote(str(self.bundle))}"
        return f"settings and guard were not fitted to this model; `{command}` fits them to labelled images"

    def peak_memory(self) -> int | None:
        """The most memory of the GPU that was taken, bytes; None on the CPU."""
        from segrefine.engines import peak_memory

        return peak_memory(self.engines.backend, self.engines.device)

    def describe(self) -> str:
        """The model in words."""
        model = self.bundle or "the model that ships with segrefine (--bundle chooses another)"
        engines = self.engines
        return f"{model}, {engines.backend} on {engines.device}" + (
            f" in {engines.precision}" if engines.precision else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """The model as JSON values; `demo` says whether it is one that ships with segrefine."""
        return {"bundle": self.bundle and str(self.bundle), **asdict(self.engines), "demo": self.is_shipped}


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that choose a bundle and how it runs, and an argument `model` for them."""

    @click.option(
        "--bundle",
        type=BundleFolder(),
        help="Folder of the model.  [default: photo; for `segment` without --zero-shot photo-gs]",
    )
    @backend_option
    @device_option
    @click.option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "bf16"]),
        cls=BackendOption,
        help="Precision to compute in; bf16 makes the denoiser faster and needs {bf16}.  [default: the bundle's]",
    )
    @click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
    @click.option(
        "--resolution",
        type=int,
        help="Scale the image for the model to this longer side, in pixels.  [default: the model's]",
    )
    @click.option(
        "--low-memory", is_flag=True, default=None,
        help="Load large graphs one at a time, on the CPU: slower.  [default: where memory is short]",
    )  # fmt: skip
    @wraps(command)
    def gathered(
        *args: Any,
        bundle: Path | None,
        backend: str,
        device: str,
        precision: EnginePrecision | None,
        threads: int | None,
        resolution: int | None,
        low_memory: bool | None,
        **rest: Any,
    ) -> None:
        from segrefine.engines import EngineOptions

        engines = EngineOptions(
            backend=backend, device=device, precision=precision, threads=threads, resolution=resolution,
            low_memory=low_memory,
        )  # fmt: skip
        command(*args, model=Model(bundle=bundle, engines=engines), **rest)

    return gathered
