"""`segrefine build-engine`."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segrefine.bundle import Bundle, Precision
from segrefine.cli.backend_help import BackendOption, default_backend
from segrefine.cli.console import Console, table, with_console
from segrefine.cli.model_options import components_option
from segrefine.cli.options import BundleFolder, device_option
from segrefine.cli.paths import GivenPath
from segrefine.errors import ShapeError
from segrefine.spec import parse_sizes

if TYPE_CHECKING:
    from segrefine.engines import Plugins


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


@click.command(short_help="Build engines for a bundle, so that it loads faster.")
@click.argument("bundle", type=BundleFolder())
@click.option(
    "--backend", default=default_backend, metavar="NAME", cls=BackendOption,
    help="The backend that runs the engines: {backends}.  [default: {default}]",
)  # fmt: skip
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), help="Fail unless the graphs have this precision.")
@device_option
@components_option
@click.option(
    "--min-shapes", metavar="S=N,…", callback=_sizes, cls=BackendOption,
    help="Smallest sizes: batch, height, width, tokens, such as `batch=1,height=32`. ({min_shapes})",
)  # fmt: skip
@click.option(
    "--opt-shapes", metavar="S=N,…", callback=_sizes, cls=BackendOption,
    help="Sizes that the engine is tuned for. ({opt_shapes})",
)  # fmt: skip
@click.option(
    "--max-shapes", metavar="S=N,…", callback=_sizes, cls=BackendOption,
    help="Largest sizes; height and width are those of latents. ({max_shapes})  [default: the model's only size]",
)  # fmt: skip
@click.option(
    "--compute-capability", metavar="X.Y", multiple=True, callback=_capabilities, cls=BackendOption,
    help="GPU that the engine runs on, such as 8.9. Can be repeated. ({compute_capabilities})  [default: the GPU here]",
)  # fmt: skip
@click.option(
    "--optimization-level", type=click.IntRange(0, 5), cls=BackendOption,
    help="Effort of the builder; higher takes longer. ({optimization_level})",
)  # fmt: skip
@click.option(
    "--workspace", metavar="MIB", type=click.IntRange(1, 1 << 20), cls=BackendOption,
    help="Scratch memory of an engine. ({workspace})",
)  # fmt: skip
@click.option(
    "--plugins", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, cls=BackendOption,
    help="Run custom ops as plugins; auto uses those that measured faster. ({plugins})",
)  # fmt: skip
@click.option(
    "--timing-cache", metavar="FILE", type=GivenPath(dir_okay=False), cls=BackendOption,
    help="File that keeps the builder's measurements for the next build. ({timing_cache})",
)  # fmt: skip
@click.option(
    "--tf32", is_flag=True, cls=BackendOption,
    help="Round float32 products to TensorFloat-32 (10 bits of mantissa) on GPUs. Faster, and less exact. ({tf32})",
)  # fmt: skip
@click.option(
    "--version-compatible", is_flag=True, cls=BackendOption,
    help="Build engines that later minor versions of the library also run. They are larger, and can be slower. "
         "({version_compatible})",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Build existing engines again.")
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
    """Build the engines of BUNDLE, so that every later start is faster.

    BUNDLE is a folder, `photo` or `photo-gs`. Engines are for this machine, or for its GPU. With --compute-capability
    they are for other GPUs, and this machine needs none. Backends in parentheses are those that accept an option.
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
            options=engines.BuildOptions(
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
