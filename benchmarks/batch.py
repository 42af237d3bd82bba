"""Throughput of `segrefine batch` by workers, and whether its memory grows.

python -m benchmarks.batch        writes benchmarks/results/batch.*
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from benchmarks.report import markdown_table, write_result
from segrefine.assets import demo_samples

SETTLED = 200
"""Images after which memory should not grow any more."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How one run went; memory is of all its processes together, in MiB."""

    workers: int
    images: int
    seconds: float
    rate: float
    settled: float
    grown: float


@click.command()
@click.option("--scenes", default=400, show_default=True, help="Images for two workers; others get as many each.")
@click.option("--workers", default="1,2", show_default=True, help="Numbers of processes, one thread each.")
def main(scenes: int, workers: str) -> None:
    """Measure batches of the shipped scenes, again and again, by each number of workers."""
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        for count in map(int, workers.split(",")):
            runs.append(_measure(count, scenes * count // 2, Path(scratch)))
    ratio = runs[-1].rate / runs[0].rate
    rows = [[str(r.workers), r.images, r.seconds, f"{r.rate:.2f}", f"{r.settled:.0f}", f"{r.grown:+.1f}"] for r in runs]
    bars = [
        [f"throughput, {runs[-1].workers} workers over {runs[0].workers}", ">= 1.7", f"{ratio:.2f}", ratio >= 1.7],
        [f"memory growth after {SETTLED} images, MiB", "<= 50", f"{runs[-1].grown:+.1f}", runs[-1].grown <= 50],
    ]
    bars = [[*row, "yes" if met else "no"] for *row, met in bars]
    markdown = "\n\n".join(
        [
            "# Batches",
            "Scenes of 128 pixels, each with one mask, the shipped ones over and over; one thread for each worker. The "
            "rate counts from the first result, when the engines are open.",
            markdown_table(["workers", "images", "seconds", "images/s", f"MiB after {SETTLED}", "growth"], rows),
            "## Bars",
            markdown_table(["figure", "bar", "measured", "met"], bars),
        ]
    )
    click.echo(markdown)
    write_result("batch", {"runs": runs, "bars": bars}, markdown)


def _measure(workers: int, images: int, scratch: Path) -> Run:
    source, output = scratch / f"scenes-{workers}", scratch / f"refined-{workers}"
    _write_scenes(source, images)
    command = [sys.executable, "-m", "segrefine.cli", "batch", source, output, "--json"]
    began, first, settled, last = time.perf_counter(), 0.0, 0.0, 0.0
    with subprocess.Popen([*command, f"--workers={workers}", "--threads=1"], stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            time.sleep(0.5)
            done = _lines(output / "journal.jsonl")
            if done and not first:
                first = time.perf_counter()
            if done < images:
                last = _memory(process.pid) or last
            if done >= SETTLED and not settled:
                settled = last
        assert process.stdout is not None
        values = json.loads(process.stdout.read())
    if values["done"] != images:
        raise click.ClickException(f"expected {images} images to be done, got {values['done']}")
    seconds = time.perf_counter() - (first or began)
    grown = last - settled if settled else float("nan")
    return Run(workers=workers, images=images, seconds=seconds, rate=images / seconds, settled=settled, grown=grown)


def _write_scenes(folder: Path, count: int) -> None:
    """The shipped scenes as often as it takes; links would lead out of the folder, so these are copies."""
    labels = json.loads((demo_samples() / "labels.json").read_text())
    names = list(labels)
    written = {}
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            name = names[number % len(names)]
            (folder / kind / f"{number:05d}.png").write_bytes((demo_samples() / kind / f"{name}.png").read_bytes())
            written[f"{number:05d}"] = labels[name]
    (folder / "labels.json").write_text(json.dumps(written))


def _lines(file: Path) -> int:
    return file.read_text().count("\n") if file.exists() else 0


def _memory(pid: int) -> float:
    """Unshared memory of a process and all below it, in MiB; 0 when they are ending."""
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return sum(each.memory_full_info().uss for each in processes) / 2**20
    except psutil.Error:
        return 0.0


if __name__ == "__main__":
    main()
