"""`segrefine build-engine`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from segrefine.bundle import Bundle, Precision
from segrefine.cli.console import Console, table, with_console
from segrefine.cli.options import BundleFolder, backend_option, components_option, device_option


@click.command()
@click.argument("bundle", type=BundleFolder())
@backend_option
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16"]), help="Of the graphs; decided at export, checked here."
)
@device_option
@components_option
@click.option("--overwrite", is_flag=True, help="Build also what is there already.")
@with_console
def build_engine(
    console: Console,
    bundle: Path,
    backend: str,
    precision: Precision | None,
    device: str,
    components: list[str] | None,
    overwrite: bool,
) -> None:
    """Build the engines of BUNDLE for this machine: every start afterwards is faster.

    BUNDLE is a folder, `demo` or `demo-gs`.
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
            overwrite=overwrite,
            progress=lambda component: tell(component, None),
        )
    seconds = time.perf_counter() - started
    listed = [{"component": e.component, "path": str(e.path), "cached": e.cached} for e in built]
    rows = [(e.component, "was there" if e.cached else "built", str(e.path)) for e in built]
    text = f"{table(('component', 'state', 'engine'), rows)}\n{seconds:.1f} s for {len(built)} engines"
    console.result({"bundle": str(bundle), "engines": listed, "seconds": seconds}, text)
