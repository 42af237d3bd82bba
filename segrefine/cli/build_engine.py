"""`segrefine build-engine`: the bundle's graphs, made ready for this machine."""

from __future__ import annotations

from pathlib import Path

import click

from segrefine.cli.console import common_options, note, show


@click.command("build-engine")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--backend", default="onnxruntime", show_default=True, help="What will run the graphs.")
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), help="[default: what the bundle was exported in]")
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda:N.")
@click.option("--components", help="Only these graphs, separated by commas.")
@click.option("--overwrite", is_flag=True, help="Build again what is there already.")
@common_options
def command(
    bundle: Path,
    backend: str,
    precision: str | None,
    device: str,
    components: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Build engines for the graphs of BUNDLE, into BUNDLE/engines."""
    from segrefine.bundle import Bundle
    from segrefine.engines import build_engine

    files = build_engine(
        Bundle.open(bundle),
        backend=backend,
        precision=None if precision is None else "fp16" if precision == "fp16" else "fp32",
        device=device,
        components=components.split(",") if components else None,
        overwrite=overwrite,
        progress=note,
    )
    entries = [{"component": f.component, "path": str(f.path), "cached": f.cached} for f in files]
    text = "\n".join(f"{e['component']}: {e['path']}{' (was there)' if e['cached'] else ''}" for e in entries)
    show({"bundle": str(bundle), "backend": backend, "engines": entries}, text, as_json=as_json)
