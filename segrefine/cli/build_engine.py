"""`segrefine build-engine`."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segrefine.bundle import Bundle, Precision
from segrefine.cli.console import Console, table, with_console
from segrefine.cli.options import BundleFolder, components_option, device_option
from segrefine.errors import ShapeError
from segrefine.spec import parse_sizes

if TYPE_CHECKING:
    from segrefine.engines.tensorrt import Plugins


def _sizes(context: click.Context, parameter: click.Parameter, text: str | None) -> dict[str, int] | None:
    try:
        sizes = parse_sizes(text) if text is not None else None
    except ShapeError as error:
        raise click.BadParameter(f"{error}; {error.hint}") from error
    if sizes and not all(sizes.values()):
        raise click.BadParameter(f"{text!r}: expected sizes of 1 or more")
    return sizes


def _capabilities(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if not re.fullmatch(r"\d+\.\d", text):
            raise click.BadParameter(f"{text!r}: expected major and minor version, such as 8.9")
    return texts


@click.command(short_help="Build a bundle's engines: every start is faster.")
@click.argument("bundle", type=BundleFolder())
@click.option(
    "--backend",
    default="onnxruntime",
    show_default=True,
    metavar="NAME",
    help="What runs the engines: onnxruntime, openvino, tensorrt, tensorrt-rtx.",
)
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16"]), help="Of the graphs; decided at export, checked here."
)
@device_option
@components_option
@click.option(
    "--min-shapes", metavar="S=N,…", callback=_sizes, help="TensorRT: the smallest batch, height, width, tokens."
)
@click.option("--opt-shapes", metavar="S=N,…", callback=_sizes, help="TensorRT: those that the engine is tuned to.")
@click.option(
    "--max-shapes", metavar="S=N,…", callback=_sizes,
    help="TensorRT: the largest; height and width are those of latents.  [default: the model's one size of image]",
)  # fmt: skip
@click.option(
    "--compute-capability", metavar="X.Y", multiple=True, callback=_capabilities,
    help="TensorRT-RTX: a GPU that the engine runs on, such as 8.9; may be repeated.  [default: the GPU that is here]",
)  # fmt: skip
@click.option("--optimization-level", type=click.IntRange(0, 5), help="TensorRT: how long the builder searches.")
@click.option(
    "--workspace", metavar="MIB", type=click.IntRange(1, 1 << 20), help="TensorRT: scratch memory of an engine."
)
@click.option(
    "--plugins", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True,
    help="TensorRT: the custom ops as plugins; auto takes those that measured faster.",
)  # fmt: skip
@click.option(
    "--timing-cache", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="TensorRT: keeps the builder's measurements for the next build.",
)  # fmt: skip
@click.option(
    "--tf32", is_flag=True,
    help="On GPUs: float32 products may be rounded to TensorFloat-32 (10 bits of mantissa). Faster, and less exact.",
)  # fmt: skip
@click.option(
    "--version-compatible", is_flag=True,
    help="TensorRT: engines that later minor versions and the lean runtime run too. Larger, and can be slower.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Build also what is there already.")
@with_console
def build_engine(
    console: Console,
    bundle: Path,
    backend: str,
    precision: Precision | None,
    device: str,
    components: list[str] | None,
    min_shapes: dict[str, int] | None,
    opt_shapes: dict[str, int] | None,
    max_shapes: dict[str, int] | None,
    compute_capability: tuple[str, ...],
    optimization_level: int | None,
    workspace: int | None,
    plugins: Plugins,
    timing_cache: Path | None,
    tf32: bool,
    version_compatible: bool,
    overwrite: bool,
) -> None:
    """Build the engines of BUNDLE: every start afterwards is faster.

    BUNDLE is a folder, `demo` or `demo-gs`. ONNX Runtime and OpenVINO build for this machine. TensorRT builds for the
    GPU of this machine. TensorRT-RTX builds for any GPU that it supports, even on a machine without one.
    """
    from segrefine import engines

    started = time.perf_counter()
    with console.progress(f"building for {backend}") as tell:
        built = engines.build_engine(
            Bundle.open(bundle),
            backend=backend,
            precision=precision,
            device=device,
            components=components,
            options=engines.TensorRtOptions(
                min_shapes=min_shapes,
                opt_shapes=opt_shapes,
                max_shapes=max_shapes,
                compute_capabilities=compute_capability,
                optimization_level=optimization_level,
                workspace=workspace,
                plugins=plugins,
                timing_cache=timing_cache,
                tf32=tf32,
                version_compatible=version_compatible,
            ),
            overwrite=overwrite,
            progress=lambda component: tell(component, None),
        )
    seconds = time.perf_counter() - started
    listed = [{"component": e.component, "path": str(e.path), "cached": e.cached} for e in built]
    rows = [(e.component, "was there" if e.cached else "built", str(e.path)) for e in built]
    text = f"{table(('component', 'state', 'engine'), rows)}\n{seconds:.1f} s for {len(built)} engines"
    console.result({"bundle": str(bundle), "engines": listed, "seconds": seconds}, text)
