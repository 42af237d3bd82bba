"""`segrefine export`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from segrefine.bundle import BundleWriter, Precision
from segrefine.cli.console import Console, with_console
from segrefine.cli.options import components_option, config_option, split_names
from segrefine.export.sources import find_model, revision_of, torch_imports


@click.command(short_help="Export a PyTorch model to a bundle of ONNX graphs.")
@click.argument("model")
@click.argument("bundle", type=click.Path(path_type=Path))
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
@components_option
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@config_option
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@with_console
def export(
    console: Console,
    model: str,
    bundle: Path,
    opset: int,
    dtype: Precision,
    fp32_components: list[str] | None,
    atol: float | None,
    components: list[str] | None,
    revision: str | None,
    config: str | None,
    overwrite: bool,
) -> None:
    """Export MODEL to BUNDLE, a folder of ONNX graphs, each checked against PyTorch.

    MODEL is a hub id, a single .safetensors file, `demo`, `photo-gs`, or a folder as diffusers saves it: Stable
    Diffusion 1.x, 2.x or XL, or a label diffusion model. If the export fails, no part of BUNDLE is left.
    """
    started = time.perf_counter()
    with BundleWriter(bundle, overwrite=overwrite):
        pass  # entering checks the place, which is better known now than after a model was loaded
    with console.progress(f"exporting {model}", long=True) as tell:
        tell("looking at the model", None)
        found = find_model(model, revision, config)
        tell("loading PyTorch", None)
        with torch_imports("export"):
            from segrefine.export import export_bundle
        written = export_bundle(
            found,
            bundle,
            dtype=dtype,
            fp32_components=fp32_components or (),
            opset=opset,
            components=components,
            atol=atol,
            overwrite=overwrite,
            progress=lambda message: tell(message.removeprefix("exporting "), None),
        )
    seconds, graphs = time.perf_counter() - started, list(written.manifest.graphs)
    megabytes = sum(record.size for record in written.manifest.files.values()) / 1e6
    text = f"{len(graphs)} graphs in {bundle}, {dtype}, {megabytes:.1f} MB, checked against PyTorch; {seconds:.1f} s"
    values = {
        "bundle": str(bundle),
        "model": model,
        "revision": revision_of(found),
        "dtype": dtype,
        "opset": opset,
        "components": graphs,
    }
    console.result(values | {"megabytes": megabytes, "seconds": seconds}, text)
