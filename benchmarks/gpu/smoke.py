"""Check of engines on this GPU, in four minutes: a short table, each line of it in a process of its own.

    python -m benchmarks.gpu.smoke      writes benchmarks/results/gpu_smoke.{json,md}

A line that fails, crashes or hangs takes nothing with it. Run this first on a machine with a new GPU or driver.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from benchmarks.gpu.device import require_gpu
from benchmarks.report import markdown_table, write_result

TITLE = "First run on a GPU"
SECONDS, LEAST = 240, 5
"""For all lines together; and what must be left for a line to start."""

State = Literal["ok", "failed", "crashed", "no time"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table.

    Attributes:
        check: its name.
        state: what became of it. A check that measured something beyond its bar has failed.
        found: figures, or what went wrong.
        bar: what the figures are held against.
        peak: device memory at the peak, MiB; 0 where nobody looked.
        seconds: that the whole line took.
    """

    check: str
    state: State
    found: str
    bar: str = ""
    peak: int = 0
    seconds: float = 0.0


@click.command()
@click.option("--only", multiple=True, metavar="CHECK", help="Only these lines; may be repeated.")
@click.option("--seconds", default=SECONDS, show_default=True, help="For all lines together.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--child", hidden=True)
@click.option("--scratch", hidden=True, type=click.Path(path_type=Path))
def main(only: tuple[str, ...], seconds: int, device: str, child: str | None, scratch: Path | None) -> None:
    """Check each backend on a GPU; `--device cpu` only tries the program out and writes nothing."""
    from benchmarks.gpu.smoke_checks import list_checks

    checks = list_checks(device)
    if unknown := [name for name in (*only, *([child] if child else [])) if name not in checks]:
        raise click.UsageError(f"there is no check {unknown[0]!r}; there are: {', '.join(checks)}")
    if child:
        assert scratch is not None
        run_child(checks[child], scratch)
        return
    if device == "cuda":
        require_gpu("gpu_smoke", TITLE, with_torch=False)
    lines = run_lines(list(only) or list(checks), command(device), seconds)
    markdown = describe(lines)
    click.echo(markdown)
    if device == "cuda" and not only:
        write_result("gpu_smoke", {"measured": True, "lines": [asdict(line) for line in lines]}, markdown)
    if failed := [line.check for line in lines if line.state not in ("ok", "no time")]:
        raise click.ClickException(f"not as it should be: {', '.join(failed)}")


def command(device: str) -> list[str]:
    """Return the command of one check, to which its name and the scratch folder are appended."""
    return [sys.executable, "-m", "benchmarks.gpu.smoke", "--device", device]


def run_child(check: Callable[[Path], Mapping[str, object]], scratch: Path) -> None:
    """Run one check in this process, and answer with one last line of JSON."""
    from segrefine.errors import SegrefineError

    try:
        answer = dict(check(scratch))
    except SegrefineError as error:
        answer = {"state": "failed", "found": f"{error}" + (f" (hint: {error.hint})" if error.hint else "")}
    except Exception as error:  # a check is one line of a table, whatever it meets
        answer = {"state": "failed", "found": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)


def run_lines(names: Sequence[str], base: Sequence[str], seconds: float) -> list[Line]:
    """Run checks one after another, each in its own process, until the time is up."""
    end, lines = time.monotonic() + seconds, []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            left = end - time.monotonic()
            if left < LEAST:
                lines.append(Line(check=name, state="no time", found=f"the {seconds:.0f} seconds were over"))
                continue
            lines.append(run_line(name, [*base, "--child", name, "--scratch", scratch], left))
            click.echo(f"{lines[-1].check}: {lines[-1].state} ({lines[-1].seconds:.0f} s) {lines[-1].found}", err=True)
    return lines


def run_line(name: str, call: Sequence[str], seconds: float) -> Line:
    """Run one check in a process, which is ended when its time is up."""
    began = time.monotonic()
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        found = f"not done after {seconds:.0f} s"
        return Line(check=name, state="no time", found=found, seconds=time.monotonic() - began)
    took = time.monotonic() - began
    try:
        answer = json.loads(out.strip().rpartition("\n")[2])
        return Line(**({"check": name, "state": "ok", "seconds": took} | answer))
    except (ValueError, TypeError):
        end = f"signal {-process.returncode}" if process.returncode < 0 else f"status {process.returncode}"
        said = errors.strip().rpartition("\n")[2]
        return Line(check=name, state="crashed", found=f"ended by {end}: {said}", seconds=took)


def describe(lines: Sequence[Line]) -> str:
    """The table, and how many lines are well."""
    rows = [
        [line.check, line.state, _short(line.found), line.bar, line.peak or "", f"{line.seconds:.0f}"] for line in lines
    ]
    well = sum(line.state == "ok" for line in lines)
    return "\n\n".join(
        [
            f"# {TITLE}",
            f"**{well} of {len(lines)} lines are as they should be.** Each ran in a process of its own.",
            markdown_table(["check", "", "found", "bar", "peak MiB", "s"], rows),
        ]
    )


def _short(text: str) -> str:
    """A text that fits a table's cell."""
    plain = " ".join(text.split()).replace("|", "/")
    return plain if len(plain) <= 160 else plain[:157] + "…"


if __name__ == "__main__":
    main()
