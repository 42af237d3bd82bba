"""`segrefine export-triton`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.cli.console import Console, with_console
from segrefine.cli.options import BundleFolder, backend_option, device_option, name_of_bundle
from segrefine.cli.paths import GivenPath

if TYPE_CHECKING:
    from segrefine.engines import EnginePrecision


@click.command(short_help="Write a bundle as a model for Triton.")
@click.argument("bundle", type=BundleFolder())
@click.argument("folder", metavar="DIR", type=GivenPath(file_okay=False))
@click.option(
    "--name", help="Name of the model in the repository.  [default: the bundle's, with -words for --zero-shot]"
)
@click.option("--model-version", "version", type=click.IntRange(min=1), default=1, show_default=True,
              help="Version of the model. A polling server switches to the highest one.")  # fmt: skip
@backend_option
@device_option
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "bf16"]), help="Precision to compute in.  [default: the bundle's]"
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of each instance.  [default: all cores]")
@click.option(
    "--instances", type=click.IntRange(min=1), default=1, show_default=True, help="Instances of the model: processes."
)
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True,
              help="Largest number of requests in one batch.")  # fmt: skip
@click.option("--delay", metavar="MS", type=click.FloatRange(min=0), default=0.0, show_default=True,
              help="Milliseconds that a request may wait for others.")  # fmt: skip
@click.option("--queue", type=click.IntRange(min=1), default=16, show_default=True, help="Requests that may wait.")
@click.option("--zero-shot", is_flag=True, help="Find phrases with a text-to-image model, and refine their masks.")
@click.option("--overwrite", is_flag=True, help="Replace an existing model, with all its versions.")
@with_console
def export_triton(
    console: Console, /, bundle: Path, folder: Path, name: str | None, precision: EnginePrecision | None,
    overwrite: bool, **options: Any,
) -> None:  # fmt: skip
    """Write BUNDLE as a model of the Triton model repository DIR.

    BUNDLE is a folder, `photo` or `photo-gs`. Triton runs the model with its Python backend. Install segrefine in
    the Python of Triton: `pip install "segrefine[cpu]"`, or `[cuda]`. Build engines on the machine that runs Triton:
    `segrefine build-engine DIR/NAME/1/bundle`.
    """
    from segrefine.bundle import Bundle
    from segrefine.engines import choose_backend
    from segrefine.triton.config import Serving
    from segrefine.triton.repository import write_repository

    options["backend"] = choose_backend(options["backend"], bundle, options["device"], precision)
    name = name or name_of_bundle(bundle) + "-words" * options["zero_shot"]
    serving = Serving(name=name, precision=precision, **options)
    version = write_repository(Bundle.open(bundle), folder, serving, overwrite=overwrite)
    text = f"model {serving.name} in {folder}; serve it with: tritonserver --model-repository {folder}"
    console.result({"repository": str(folder), "model": serving.name, "version": str(version)}, text)
