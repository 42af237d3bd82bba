"""`segrefine parity`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from segrefine.bundle import Bundle
from segrefine.cli.console import Console, table, with_console
from segrefine.cli.models import find_model, torch_imports
from segrefine.cli.options import BundleFolder, backend_option, device_option
from segrefine.errors import ParityError


@click.command()
@click.argument("bundle", type=BundleFolder())
@click.option("--reference", required=True, metavar="MODEL", help="What BUNDLE was exported from: `demo`, a folder, …")
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@backend_option
@device_option
@with_console
def parity(console: Console, bundle: Path, reference: str, revision: str | None, backend: str, device: str) -> None:
    """Hold the engines of BUNDLE against PyTorch: every component, every step of the loop, the final masks.

    BUNDLE is a folder, `demo` or `demo-gs`. Errors are relative to the range of the reference. Fails where one is past
    its tolerance.
    """
    from segrefine.assets import demo_samples
    from segrefine.cli.samples import load_samples

    Bundle.open(bundle)  # no bundle is better known now than after PyTorch was loaded
    rows = []
    with console.progress("comparing", long=True) as tell:
        tell("loading PyTorch", None)
        with torch_imports("parity"):
            from segrefine.export.comparison import Scene
            from segrefine.export.parity import check_parity
        scenes = [Scene(image=s.image, coarse=s.coarse, label=s.label) for s in load_samples(demo_samples()).values()]
        tell("loading the model", None)
        for row in check_parity(bundle, find_model(reference, revision), scenes, backend=backend, device=device):
            tell(row.component, None)
            rows.append(row)
    failed = [row for row in rows if not row.ok]
    cells = [(r.component, r.step, f"{r.error:.1e}", f"{r.tolerance:.0e}", "ok" if r.ok else "FAILED") for r in rows]
    values = {
        "bundle": str(bundle),
        "backend": backend,
        "ok": not failed,
        "rows": [asdict(r) | {"ok": r.ok} for r in rows],
    }
    console.result(values, table(("component", "step", "error", "tolerance", ""), cells))
    if failed:
        worst = max(failed, key=lambda row: row.error / row.tolerance)
        raise ParityError(
            f"{len(failed)} of {len(rows)} comparisons are past tolerance, the worst {worst.component} ({worst.step})",
            hint="is the reference what the bundle was exported from? If so, export it again",
        )
