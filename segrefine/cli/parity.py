"""`segrefine parity`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.bundle import Bundle
from segrefine.cli.console import Console, table, with_console
from segrefine.cli.model_options import config_option, vae_option
from segrefine.cli.options import BundleFolder, backend_option, device_option
from segrefine.errors import ParityError
from segrefine.export.other_vae import with_vae
from segrefine.export.sources import find_model, torch_imports

if TYPE_CHECKING:
    from segrefine.engines.engine import Feeds
    from segrefine.export.comparison import ParityRow, ParityScene
    from segrefine.export.locate import Divergence


@click.command(short_help="Compare a bundle's engines with PyTorch.")
@click.argument("bundle", type=BundleFolder())
@click.option(
    "--reference",
    required=True,
    metavar="MODEL",
    help="Model that BUNDLE was exported from: a folder, a file, a hub id, `photo` or `photo-gs`.",
)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@config_option
@vae_option
@backend_option
@device_option
@click.option("--locate", is_flag=True, help="Find the first tensor that differs, in every component that fails.")
@with_console
def parity(
    console: Console,
    bundle: Path,
    reference: str,
    revision: str | None,
    config: str | None,
    vae: str | None,
    backend: str,
    device: str,
    locate: bool,
) -> None:
    """Compare the engines of BUNDLE with PyTorch: every component, every step of the loop, the final masks.

    BUNDLE is a folder, `photo` or `photo-gs`. Errors are relative to the range of the reference. The command fails if
    an error exceeds its tolerance.
    """
    from segrefine.engines import choose_backend

    opened = Bundle.open(bundle)  # no bundle is better known now than after PyTorch was loaded
    backend = choose_backend(backend, bundle, device)
    rows = []
    with console.progress("comparing", long=True) as tell, ExitStack() as stack:
        if locate:
            _check_locating(backend)
        tell("looking at the model", None)
        model = stack.enter_context(with_vae(find_model(reference, revision, config), vae))
        tell("loading PyTorch", None)
        with torch_imports("parity"):
            from segrefine.export.parity import check_parity, locate_divergences
        for row in check_parity(bundle, model, _shipped_scenes(), backend=backend, device=device):
            tell(row.component, None)
            rows.append(row)
        failed = [row for row in rows if not row.ok]
        wrong = _wrong_components(failed, opened) if locate else {}
        found = []
        located = locate_divergences(opened, model, wrong, backend=backend, device=device)
        for component in wrong:
            tell(f"locating in {component}", None)
            found.append(next(located))
    cells = [(r.component, r.step, f"{r.error:.1e}", f"{r.tolerance:.0e}", "ok" if r.ok else "FAILED") for r in rows]
    values = {
        "bundle": str(bundle),
        "backend": backend,
        "ok": not failed,
        "rows": [_values(r) | {"ok": r.ok} for r in rows],
        "divergences": [each and _values(each) for each in found],
    }
    text = table(("component", "step", "error", "tolerance", ""), cells)
    console.result(values, "\n".join([text, *map(_describe, wrong, found)]))
    if failed:
        raise _too_different(failed, len(rows))


def _shipped_scenes() -> list[ParityScene]:
    """The scenes that are compared."""
    from segrefine.assets import demo_samples
    from segrefine.cli.samples import load_samples
    from segrefine.export.comparison import ParityScene

    samples = load_samples(demo_samples()).values()
    return [ParityScene(image=each.image, coarse=each.coarse, label=each.label) for each in samples]


def _too_different(failed: Sequence[ParityRow], count: int) -> ParityError:
    """The error of comparisons that are past their tolerance; names the worst of them."""
    worst = max(failed, key=lambda row: row.error / row.tolerance)
    return ParityError(
        f"{len(failed)} of {count} comparisons are past tolerance, the worst in {worst.step}",
        subject=worst.component,
        expected=f"an error of at most {worst.tolerance:.0e}",
        got=f"{worst.error:.1e}",
        hint="is the reference, with its --vae, what the bundle was exported from? If so, export it again",
    )


def _check_locating(backend: str) -> None:
    """Checks that `--locate` can build the engines that it takes: known now, not after everything was compared."""
    from segrefine.engines import find_backend

    found = find_backend(backend)
    if found.needs_build:
        found.check_builder()


def _wrong_components(failed: Sequence[ParityRow], bundle: Bundle) -> dict[str, Feeds | None]:
    """The components of failed rows, each with inputs that are known to make it fail, or None."""
    wrong: dict[str, Feeds | None] = {}
    for row in failed:
        if row.component in bundle.manifest.graphs:
            wrong[row.component] = wrong.get(row.component) or row.feeds
    return wrong


def _values(entry: ParityRow | Divergence) -> dict[str, Any]:
    """An entry as JSON values; a number that is not finite, which JSON lacks, is null."""
    values = {name: value for name, value in asdict(entry).items() if name != "feeds"}
    return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in values.items()}


def _describe(component: str, found: Divergence | None) -> str:
    """Describe what `--locate` found in a component, in a few lines."""
    if found is None:
        return f"{component}: no tensor of the graph differs from a fresh export's; what was fused in the engine does"
    where = ", ".join(map(str, found.index))
    if math.isfinite(found.got):
        fault = f"{found.agreed} tensors agree, then {found.tensor} differs by {found.error:.1e} of its range"
    else:
        fault = f"{found.agreed} tensors are finite, then {found.tensor} is not"
    return (
        f"{component}: {fault}\n"
        f"  {found.operator} of {', '.join(found.inputs)}\n"
        f"  at [{where}] the reference has {found.expected:.6g}, the engine {found.got:.6g}"
    )
