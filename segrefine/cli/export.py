"""`segrefine export`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.bundle import BundleWriter, Precision
from segrefine.cli.console import Console, with_console
from segrefine.cli.inspect import describe_quantized
from segrefine.cli.model_options import components_option, config_option, split_names, vae_option
from segrefine.cli.paths import GivenPath
from segrefine.export.sources import find_model, revision_of, torch_imports
from segrefine.storage import staging_folder

if TYPE_CHECKING:
    from segrefine.export.comparison import ParityScene


@click.command(short_help="Export a PyTorch model to a bundle of ONNX graphs.")
@click.argument("model")
@click.argument("bundle", type=GivenPath())
@click.option("--opset", type=click.IntRange(min=23), default=23, show_default=True, help="ONNX opset of the graphs.")
@click.option(
    "--dtype", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True, help="Precision of the weights."
)
@click.option(
    "--fp32-components", callback=split_names, metavar="A,B,…", help="Graphs that stay in fp32, with --dtype fp16."
)
@click.option(
    "--atol",
    type=click.FloatRange(min=0, min_open=True),
    help="Largest allowed difference from PyTorch, relative to an output's range.  [default: 1e-4, fp16: 1e-2]",
)
@click.option(
    "--quantize", type=click.Choice(["int8"]), help="Store and run the denoiser in eight bits. Needs --calibrate."
)
@click.option(
    "--calibrate",
    metavar="DATA|demo",
    help="Images with masks for --quantize: a data set that `segrefine batch` reads, or the samples that ship.",
)
@vae_option
@components_option
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@config_option
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@with_console
def export(
    console: Console,
    /,
    model: str,
    bundle: Path,
    dtype: Precision,
    fp32_components: list[str] | None,
    quantize: str | None,
    calibrate: str | None,
    revision: str | None,
    config: str | None,
    vae: str | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Export MODEL to BUNDLE, a folder of ONNX graphs, each checked against PyTorch.

    MODEL is a hub id, a single .safetensors file, `photo`, `photo-gs`, or a folder as diffusers saves it: Stable
    Diffusion 1.x, 2.x or XL, or a label diffusion model. If the export fails, no part of BUNDLE is left.
    """
    started = time.perf_counter()
    _check_options(quantize, calibrate, dtype, options["components"])
    with BundleWriter(bundle, overwrite=overwrite):
        pass  # entering checks the place, which is better known now than after a model was loaded
    with console.progress(f"exporting {model}", long=True) as tell, ExitStack() as stack:
        tell("looking at the model", None)
        found = find_model(model, revision, config)
        tell("loading PyTorch", None)
        with torch_imports("export"):
            from segrefine.export import export_bundle
        scenes = _read_scenes(calibrate, model) if calibrate else []
        # beside the bundle's place, where there must be room for it as well
        place = stack.enter_context(staging_folder(bundle.resolve())) / "float" if quantize else bundle
        written = export_bundle(
            found,
            place,
            vae=vae,
            dtype=dtype,
            fp32_components=fp32_components or (),
            overwrite=overwrite,
            progress=lambda message: tell(message.removeprefix("exporting "), None),
            **options,
        )
        if quantize:
            from segrefine.export.quantize import quantize_bundle

            written = quantize_bundle(
                place, bundle, scenes, overwrite=overwrite, progress=lambda message: tell(message, None)
            )
    values = {
        "bundle": str(bundle), "model": model, "revision": revision_of(found), "vae": vae, "dtype": dtype,
        "opset": written.manifest.opset, "components": list(written.manifest.graphs),
        "quantized": dict(written.manifest.quantized), "seconds": time.perf_counter() - started,
        "megabytes": sum(record.size for record in written.manifest.files.values()) / 1e6,
    }  # fmt: skip
    for warning in _warnings(written.manifest.quantized):
        console.warn(warning)
    console.result(values, _describe(values, written.manifest.quantized))


def _check_options(quantize: str | None, calibrate: str | None, dtype: Precision, components: list[str] | None) -> None:
    """Check that the options go together, before anything is exported.

    Raises:
        click.UsageError: two of them do not.
    """
    if (quantize is None) != (calibrate is None):
        raise click.UsageError("give --quantize and --calibrate together")
    if quantize and dtype != "fp32":
        raise click.UsageError(f"--quantize starts from fp32, got --dtype {dtype}: leave one of them out")
    if quantize and components:
        raise click.UsageError("--quantize runs the whole method to judge it: leave --components out")


def _read_scenes(source: str, model: str) -> list[ParityScene]:
    """Read the scenes of --calibrate; of those that ship, the ones of labels that a shipped model knows."""
    from segrefine.assets import VOCABULARIES, demo_samples, photo_samples
    from segrefine.cli.samples import load_samples
    from segrefine.export.comparison import ParityScene
    from segrefine.export.quantize import read_scenes

    if source != "demo":
        return read_scenes(Path(source))
    samples = [*load_samples(demo_samples()).values(), *load_samples(photo_samples()).values()]
    if model in VOCABULARIES:
        samples = [each for each in samples if each.label in VOCABULARIES[model].labels]
    return [ParityScene(image=each.image, coarse=each.coarse, label=each.label) for each in samples]


def _warnings(quantized: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, each in list(quantized.items())[:1]:
        if each["time"] >= 1:
            yield (
                f"int8 does not pay on this machine: a pass of {name} takes {each['time']:.2f} times as long as in "
                "float32; it needs a CPU with VNNI, or a GPU"
            )


def _describe(values: Mapping[str, Any], quantized: Mapping[str, Any]) -> str:
    text = "{} graphs in {bundle}, {dtype}, {megabytes:.1f} MB, checked against PyTorch; {seconds:.1f} s"
    lines = [text.format(len(values["components"]), **values)]
    lines += [f"{name} {describe_quantized(each)}" for name, each in quantized.items()]
    return "\n".join(lines)
