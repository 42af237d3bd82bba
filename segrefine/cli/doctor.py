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
    """Show what is installed, what each backend can do on this machine, and what is missing for the rest."""
    from segrefine.engines import diagnosis

    packages, abilities = diagnosis.list_packages(), list(diagnosis.list_abilities())
    conflicts, gaps = diagnosis.find_conflicts(), diagnosis.find_gaps()
    driver, gpu = diagnosis.cuda_driver(), diagnosis.gpu_here()
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    values = {
        "segrefine": __version__,
        "machine": machine,
        "executable": sys.executable,
        "cuda_driver": driver,
        "gpu": gpu,
        "packages": packages,
        "abilities": [asdict(each) | {"possible": each.problem is None} for each in abilities],
        "conflicts": conflicts,
        "gaps": gaps,
    }
    rows = [(each.backend, each.task, each.where, each.problem or "yes") for each in abilities]
    hints = dict.fromkeys(each.hint for each in abilities if each.hint)
    lines = [
        f"segrefine {__version__}, {machine}, {f'CUDA driver for {driver}' if driver else 'no CUDA driver'}"
        + (f", GPU of compute capability {gpu}" if gpu else ""),
        ", ".join(f"{name} {number}" for name, number in packages.items()),
        "",
        table(("backend", "can", "where", "here"), rows),
        *(f"hint: {hint}" for hint in hints),
    ]
    console.result(values, "\n".join(lines))
    for problem in (*conflicts, *gaps):
        console.warn(problem)
