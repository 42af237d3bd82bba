"""`segrefine doctor`."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict

import click

from segrefine import __version__
from segrefine.cli.console import Console, table, with_console


@click.command(short_help="Show what each backend can do on this machine.")
@with_console
def doctor(console: Console) -> None:
    """Show what is installed, what each backend can do on this machine, and what keeps it from the rest."""
    from segrefine.engines.diagnosis import cuda_driver, find_conflicts, list_abilities, list_packages

    packages, abilities, conflicts, driver = list_packages(), list(list_abilities()), find_conflicts(), cuda_driver()
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    values = {
        "segrefine": __version__,
        "machine": machine,
        "executable": sys.executable,
        "cuda_driver": driver,
        "packages": packages,
        "abilities": [asdict(each) | {"possible": each.problem is None} for each in abilities],
        "conflicts": conflicts,
    }
    rows = [(each.backend, each.task, each.where, each.problem or "yes") for each in abilities]
    hints = dict.fromkeys(each.hint for each in abilities if each.hint)
    lines = [
        f"segrefine {__version__}, {machine}, {f'CUDA driver for {driver}' if driver else 'no CUDA driver'}",
        ", ".join(f"{name} {number}" for name, number in packages.items()),
        "",
        table(("backend", "can", "where", "here"), rows),
        *(f"hint: {hint}" for hint in hints),
    ]
    console.result(values, "\n".join(lines))
    for conflict in conflicts:
        console.warn(conflict)
