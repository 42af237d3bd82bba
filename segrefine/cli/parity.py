"""`segrefine parity`: engines held against PyTorch."""

from __future__ import annotations

from pathlib import Path

import click

from segrefine.cli.console import common_options, needs_extra, show
from segrefine.errors import ParityError


@click.command("parity")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--reference", required=True, help="The checkpoint it was exported from (a folder, a hub id, or: demo).")
@click.option("--revision", help="Of a model on the hub: branch, tag or commit.")
@click.option("--scenes", type=click.IntRange(1, 12), default=3, show_default=True, help="Shipped scenes to refine.")
@click.option("--backend", default="onnxruntime", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@common_options
def command(
    bundle: Path, reference: str, revision: str | None, scenes: int, backend: str, device: str, as_json: bool
) -> None:
    """Compare BUNDLE with its checkpoint: every graph, every step of the loop, the final mask."""
    from segrefine.assets import demo_bundle
    from segrefine.runtime.samples import load_samples

    with needs_extra("export"):
        from segrefine.cli.models import find_checkpoint
        from segrefine.export.parity import Scene, check_parity

    path = demo_bundle() if str(bundle) == "demo" else bundle
    chosen = [Scene(image=s.image, coarse=s.coarse, label=s.label) for s in load_samples()[:scenes]]
    rows = []
    if not as_json:
        click.echo(f"{'component':<14} {'step':<36} {'error':>9} {'allowed':>9}")
    for row in check_parity(path, find_checkpoint(reference, revision), chosen, backend=backend, device=device):
        rows.append(row)
        if not as_json:
            verdict = "" if row.ok else "  FAILED"
            click.echo(f"{row.component:<14} {row.step:<36} {row.error:>9.1e} {row.tolerance:>9.1e}{verdict}")
    failed = [row for row in rows if not row.ok]
    data = {"ok": not failed, "rows": [vars(row) | {"ok": row.ok} for row in rows]}
    show(data, f"{len(rows) - len(failed)} of {len(rows)} comparisons within tolerance", as_json=as_json)
    if failed:
        raise ParityError(
            f"{failed[0].component}, {failed[0].step}: error {failed[0].error:.1e}, allowed {failed[0].tolerance:.1e}",
            hint="export the bundle again from this checkpoint, and compare with the same versions",
        )
