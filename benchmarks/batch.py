"""Throughput of `segrefine batch` by workers, and whether its memory grows.

python -m benchmarks.batch        writes benchmarks/results/batch.*
"""

from __future__ import annotations

import json
import math
import statistics
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
from segrefine.batch.journal import JOURNAL

BATCH = (sys.executable, "-m", "segrefine.cli", "batch")

SETTLED = 200
"""Images after which memory should not grow any more."""
POLL = 1.0
"""Seconds between two looks at a run."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Result of one run; memory is of all its processes together, in MiB, NaN in a run too short to tell.

    Attributes:
        workers: processes.
        images: in the run.
        seconds: from the first results to the end.
        rate: images a second in that time.
        settled: median memory in the tenth of the run that follows the first `SETTLED` images.
        grown: by how much that of the last tenth is above it.
        highest: by how much the highest of all later looks is above it.
    """

    workers: int
    images: int
    seconds: float
    rate: float
    settled: float
    grown: float
    highest: float


@click.command()
@click.option("--workers", default="1,2", show_default=True, help="Numbers of processes, one thread each.")
@click.option("--scenes", default="300,2000", show_default=True, help="Images for each of these numbers.")
def main(workers: str, scenes: str) -> None:
    """Measure batches of the shipped scenes, again and again, by each number of workers."""
    pairs = list(zip(_numbers(workers), _numbers(scenes), strict=True))
    with tempfile.TemporaryDirectory() as scratch:
        runs = [_measure(count, images, Path(scratch)) for count, images in pairs]
    ratio = runs[-1].rate / runs[0].rate
    rows = [
        [str(r.workers), r.images, f"{r.seconds:.0f}", f"{r.rate:.2f}", f"{r.settled:.0f}", f"{r.grown:+.1f}",
         f"{r.highest:+.1f}"]
        for r in runs
    ]  # fmt: skip
    bars = [
        [f"throughput, {runs[-1].workers} workers over {runs[0].workers}", ">= 1.7", f"{ratio:.2f}", ratio >= 1.7],
        [f"memory growth after {SETTLED} images, MiB", "<= 50", f"{runs[-1].grown:+.1f}", runs[-1].grown <= 50],
    ]
    bars = [[*row, "yes" if met else "no"] for *row, met in bars]
    markdown = "\n\n".join(
        [
            "# Batches",
            "Scenes of 128 pixels, each with one mask, the shipped ones over and over; one thread for each worker. The "
            "rate counts from the first results, when the engines are open. Memory is what the processes share with "
            f"no other, the median over a tenth of the run: after {SETTLED} images, and by how much that at the end, "
            "and the highest look of all, are above it.",
            markdown_table(["workers", "images", "seconds", "images/s", "MiB", "growth", "highest"], rows),
            "## Bars",
            markdown_table(["figure", "bar", "measured", "met"], bars),
        ]
    )
    click.echo(markdown)
    write_result("batch", {"runs": runs, "bars": bars}, markdown)


def _numbers(words: str) -> list[int]:
    return [int(word) for word in words.split(",")]


def _measure(workers: int, images: int, scratch: Path) -> Run:
    source, output = scratch / f"scenes-{workers}", scratch / f"refined-{workers}"
    write_scenes(source, images)
    command = [*BATCH, str(source), str(output), "--json", f"--workers={workers}", "--threads=1"]
    looks: list[tuple[float, int, float]] = []  # when, images done, MiB
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            time.sleep(POLL)
            done = _lines(output / JOURNAL)
            if 0 < done < images and (memory := _memory(process.pid)):
                looks.append((time.perf_counter(), done, memory))
        ended = time.perf_counter()
        assert process.stdout is not None
        values = json.loads(process.stdout.read())
    if values["done"] != images or not looks:
        raise click.ClickException(f"expected {images} images to be done under our eyes, got {values['done']}")
    first, before, _ = looks[0]
    later = [memory for _, done, memory in looks if done >= SETTLED]
    tenth = max(1, len(looks) // 10)
    settled = statistics.median(later[:tenth]) if later else math.nan
    return Run(
        workers=workers,
        images=images,
        seconds=ended - first,
        rate=(images - before) / (ended - first),
        settled=settled,
        grown=statistics.median(later[-tenth:]) - settled if later else math.nan,
        highest=max(later) - settled if later else math.nan,
    )


def write_scenes(folder: Path, count: int) -> None:
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
        return float(sum(each.memory_full_info().uss for each in processes)) / 2**20
    except psutil.Error:
        return 0.0


if __name__ == "__main__":
    main()
