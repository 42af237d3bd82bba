"""`segrefine export`: a checkpoint becomes a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from segrefine.cli.console import common_options, needs_extra, note, show


@click.command("export")
@click.argument("model")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True)
@click.option("--opset", type=click.IntRange(min=23), default=23, show_default=True, help="ONNX opset.")
@click.option("--atol", type=float, help="Largest error against PyTorch, relative to the range  [default: by dtype]")
@click.option("--components", help="Only these graphs, separated by commas.")
@click.option("--revision", help="Of a model on the hub: branch, tag or commit.")
@click.option("--overwrite", is_flag=True, help="Replace BUNDLE if it is a bundle.")
@common_options
def command(
    model: str,
    bundle: Path,
    dtype: str,
    opset: int,
    atol: float | None,
    components: str | None,
    revision: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export MODEL (a diffusers folder, a hub id, or: demo) to BUNDLE, and check every graph."""
    with needs_extra("export"):
        from segrefine.cli.models import find_checkpoint
        from segrefine.export.bundle_export import export_bundle

        written = export_bundle(
            find_checkpoint(model, revision),
            bundle,
            dtype="fp16" if dtype == "fp16" else "fp32",
            opset=opset,
            atol=atol,
            components=components.split(",") if components else None,
            overwrite=overwrite,
            progress=note,
        )
    size = sum(record.size for record in written.manifest.files.values())
    data = {"bundle": str(bundle), "components": list(written.manifest.graphs), "dtype": dtype, "bytes": size}
    show(data, f"{len(written.manifest.graphs)} graphs, {size / 1e6:.1f} MB → {bundle}", as_json=as_json)
