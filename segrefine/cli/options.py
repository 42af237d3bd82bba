"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from segrefine.engines import EnginePrecision
    from segrefine.runtime.pipeline import Refiner
    from segrefine.runtime.segmenter import Segmenter

backend_option = click.option(
    "--backend",
    default="onnxruntime",
    show_default=True,
    metavar="NAME",
    help="What runs the graphs: onnxruntime, openvino, tensorrt, tensorrt-rtx.",
)
device_option = click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="DEVICE",
    help="Where they run: cpu, cuda or cuda:N; TensorRT always takes a GPU.",
)


crop_option = click.option(
    "--crop/--no-crop",
    default=True,
    show_default=True,
    help="Refine an object under 1 % of the image in a crop around it.",
)
guard_option = click.option(
    "--guard/--no-guard",
    default=True,
    show_default=True,
    help="Undo changes that cannot be trusted.",
)


class BundleFolder(click.ParamType[Path]):
    """The folder of a bundle; `demo` and `demo-gs` are those that ship with segrefine."""

    name = "path"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The folder, which need not exist."""
        from segrefine.assets import DEMO_BUNDLES

        return DEMO_BUNDLES.get(str(value), Path(value))


def name_of_bundle(folder: Path) -> str:
    """What a bundle is called where several are served: `demo`, `demo-gs`, or its folder's name."""
    from segrefine.assets import DEMO_BUNDLES

    words = {path: word for word, path in DEMO_BUNDLES.items()}
    return words.get(folder) or folder.resolve().name


@dataclass(frozen=True, kw_only=True)
class Model:
    """The bundle that serves, and how it runs.

    Attributes:
        bundle: its folder; None for the demo model of the method.
        backend: what runs the graphs.
        device: where they run.
        precision: what they compute in; None for their own.
        threads: of the CPU; None for all cores.
        resolution: see `EngineSet`; None for the bundle's.
    """

    bundle: Path | None
    backend: str
    device: str
    precision: EnginePrecision | None
    threads: int | None
    resolution: int | None = None

    @property
    def is_demo(self) -> bool:
        """Whether a demo model serves."""
        from segrefine.assets import DEMO_BUNDLES

        return self.bundle is None or self.bundle.absolute() in {path.absolute() for path in DEMO_BUNDLES.values()}

    def open(self) -> Refiner:
        """The refiner; the caller closes it.

        Raises:
            SegrefineError: see `Refiner.from_bundle`.
        """
        from segrefine.assets import demo_bundle
        from segrefine.runtime.pipeline import Refiner

        return Refiner.from_bundle(self.bundle or demo_bundle(), **self._engines())

    def engines(self) -> dict[str, Any]:
        """The arguments of `Refiner.from_bundle`, for another process to open it."""
        from segrefine.assets import demo_bundle

        return {"path": self.bundle or demo_bundle(), **self._engines()}

    def open_segmenter(self) -> Segmenter:
        """The segmenter; the caller closes it.

        Raises:
            SegrefineError: see `Segmenter.from_bundle`.
        """
        from segrefine.assets import demo_gs_bundle
        from segrefine.runtime.segmenter import Segmenter

        return Segmenter.from_bundle(self.bundle or demo_gs_bundle(), **self._engines())

    def _engines(self) -> dict[str, Any]:
        return {
            "backend": self.backend, "device": self.device, "precision": self.precision, "threads": self.threads,
            "resolution": self.resolution,
        }  # fmt: skip

    def peak_memory(self) -> int | None:
        """The most memory of the GPU that was taken, bytes; None on the CPU."""
        from segrefine.engines import peak_memory

        return peak_memory(self.backend, self.device)

    def describe(self) -> str:
        """The model in words."""
        model = self.bundle or "the demo model that ships with segrefine (--bundle chooses another)"
        return f"{model}, {self.backend} on {self.device}" + (f" in {self.precision}" if self.precision else "")

    def to_dict(self) -> dict[str, Any]:
        """The model as JSON values; `demo` says whether it is the shipped one."""
        return asdict(self) | {"bundle": self.bundle and str(self.bundle), "demo": self.is_demo}


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that choose a bundle and how it runs, and an argument `model` for them."""

    @click.option("--bundle", type=BundleFolder(), help="Folder of the model; without, the demo model serves.")
    @backend_option
    @device_option
    @click.option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "bf16"]),
        help="Without, the bundle's. bf16: a faster denoiser, with --backend openvino.",
    )
    @click.option("--threads", type=click.IntRange(min=1), help="CPU threads; without, all cores.")
    @click.option("--resolution", type=int, help="Pixels on the longer side as the model sees it; without, its own.")
    @wraps(command)
    def gathered(
        *args: Any,
        bundle: Path | None,
        backend: str,
        device: str,
        precision: EnginePrecision | None,
        threads: int | None,
        resolution: int | None,
        **rest: Any,
    ) -> None:
        model = Model(
            bundle=bundle, backend=backend, device=device, precision=precision, threads=threads, resolution=resolution
        )
        command(*args, model=model, **rest)

    return gathered


def split_names(context: click.Context, parameter: click.Parameter, text: str | None) -> list[str] | None:
    """The names in a text, parted by commas."""
    return [name.strip() for name in text.split(",")] if text is not None else None


config_option = click.option(
    "--config",
    metavar="FOLDER|HUB-ID",
    help="For a single file: a diffusers model of the same architecture.  [default: by the weights, from the hub]",
)
components_option = click.option(
    "--components", callback=split_names, metavar="A,B,…", help="Only these graphs, parted by commas; without, all."
)
