"""Batches that are killed at random moments and then resumed: is every result there, whole, and made once?

    python -m benchmarks.batch_kills        writes benchmarks/results/batch_kills.*

Real kills by SIGKILL, of three kinds: the run with all its processes at a random moment; likewise at the moment when a
random one of its results appears, which the journal has often not noted yet; and one of its workers at a random moment,
which the run has to survive by itself. Afterwards `--resume`, and a comparison with a run that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import psutil
from tqdm import tqdm

from benchmarks.batch import BATCH, write_scenes
from benchmarks.report import markdown_table, write_result
from segrefine.batch.journal import JOURNAL

RUN, RESULT, WORKER = "run, random moment", "run, as a result appears", "one worker, random moment"
Stamps = Mapping[str, tuple[int, int]]
"""Inode and time of each result: those of a file that was written again are others."""


@dataclass(frozen=True, kw_only=True)
class KillTrial:
    """Leftovers and outcome of one kill. All but the first four should be 0.

    Attributes:
        kind: of kill.
        seconds: from the start of the run to the kill.
        done: results that were there when nothing ran any more.
        noted: lines of the journal at that moment.
        unaccounted: items neither done nor failed in a run that survived.
        missing: results that are not there after `--resume`.
        twice: results that were there and were written again, and items with two lines as done in the journal.
        differing: results that do not hold the very bytes of the undisturbed run, as a truncated one would not.
        leftovers: files of unfinished writes.
    """

    kind: str
    seconds: float
    done: int
    noted: int
    unaccounted: int
    missing: int
    twice: int
    differing: int
    leftovers: int

    @property
    def is_good(self) -> bool:
        """Return whether nothing was lost, damaged or done twice."""
        return not any((self.unaccounted, self.missing, self.twice, self.differing, self.leftovers))


@click.command()
@click.option("--kills", default=10, show_default=True, help="Kills of each kind.")
@click.option("--scenes", default=16, show_default=True, help="Images in the batch.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
def main(kills: int, scenes: int, seed: int) -> None:
    """Kill batches, resume them, and count what was lost."""
    rng, trials = random.Random(seed), []
    with tempfile.TemporaryDirectory() as scratch:
        source, whole = Path(scratch) / "scenes", Path(scratch) / "whole"
        write_scenes(source, scenes)
        began = time.perf_counter()
        _resume(source, whole)
        duration = time.perf_counter() - began
        for kind in (RUN, RESULT, WORKER):
            for number in tqdm(range(kills), desc=kind):
                output = Path(scratch) / f"{kind}-{number}"
                trials.append(_try(kind, source, output, whole, rng, duration))
    markdown = _describe(trials, scenes, seed)
    click.echo(markdown)
    good = sum(trial.is_good for trial in trials)
    write_result("batch_kills", {"trials": trials, "good": good, "seed": seed, "scenes": scenes}, markdown)


def _try(kind: str, source: Path, output: Path, whole: Path, rng: random.Random, duration: float) -> KillTrial:
    """One run that is disturbed, and resumed."""
    expected, began = _stamps(whole), time.perf_counter()
    process = subprocess.Popen(
        [*BATCH, source, output, "--json", "--workers=2", "--threads=1"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    if kind == RESULT:
        _await_results(process, output, rng.randrange(1, len(expected)))
    else:
        time.sleep(rng.uniform(0, duration))
    killed, unaccounted = time.perf_counter(), 0
    if kind == WORKER:
        unaccounted = len(expected) - _kill_worker(process, rng)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    before, noted = _stamps(output), len(_journal(output))
    _resume(source, output)
    after, entries = _stamps(output), _journal(output)
    finished = [entry["name"] for entry in entries if entry["status"] == "done"]
    return KillTrial(
        kind=kind,
        seconds=killed - began,
        done=len(before),
        noted=noted,
        unaccounted=unaccounted,
        missing=len(expected.keys() - after.keys()),
        twice=sum(after.get(name) != stamp for name, stamp in before.items()) + len(finished) - len(set(finished)),
        differing=sum(_content(output, name) != _content(whole, name) for name in after),
        leftovers=len(list(output.rglob("*.partial"))),
    )


def _await_results(process: subprocess.Popen[bytes], output: Path, count: int) -> None:
    while len(_stamps(output)) < count and process.poll() is None:
        time.sleep(0.0005)


def _kill_worker(process: subprocess.Popen[bytes], rng: random.Random) -> int:
    """Kills one of the workers, if there are any yet, and gives how many items the run accounts for in the end."""
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(_words(child))]
    if workers:
        rng.choice(workers).kill()
    values = json.loads(process.communicate()[0])
    if process.returncode != (1 if values["failed"] else 0):
        raise click.ClickException(f"exit code {process.returncode}, {values['failed']} failed")
    return int(values["done"] + values["failed"])


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:  # it is just ending
        return []


def _resume(source: Path, output: Path) -> None:
    subprocess.run(
        [*BATCH, source, output, "--json", "--workers=2", "--threads=1", "--resume"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip


def _stamps(output: Path) -> Stamps:
    try:
        found = {file.name: file.stat() for file in os.scandir(output / "masks") if not file.name.startswith(".")}
    except FileNotFoundError:
        return {}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def _content(output: Path, name: str) -> bytes:
    return (output / "masks" / name).read_bytes()


def _journal(output: Path) -> list[dict[str, Any]]:
    file = output / JOURNAL
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _describe(trials: Iterable[KillTrial], scenes: int, seed: int) -> str:
    rows = [
        [t.kind, f"{t.seconds:.2f}", t.done, t.noted, t.unaccounted, t.missing, t.twice, t.differing, t.leftovers]
        for t in trials
    ]
    good = {kind: [t.is_good for t in trials if t.kind == kind] for kind in (RUN, RESULT, WORKER)}
    bars = [
        [f"killed: {kind}", f"{len(found)} of {len(found)}", f"{sum(found)} of {len(found)}",
         "yes" if all(found) else "no"]
        for kind, found in good.items()
    ]  # fmt: skip
    return "\n\n".join(
        [
            "# Batches that are killed",
            f"Batches of {scenes} scenes by two workers, each killed once by SIGKILL (moments by seed {seed}) and then "
            "resumed. Results and lines of the journal are those at the kill; of a batch that lost a worker, those at "
            "its end. All columns after these two should be 0: items that a run which lost a worker does not account "
            "for; results missing after `--resume`; written again, or done twice by the journal; other bytes than in "
            "a run that nobody disturbed, as of a truncated file; leftovers of unfinished writes.",
            "## Bars",
            markdown_table(["every result present, none done twice, none truncated", "bar", "measured", "met"], bars),
            "## Kills",
            markdown_table(
                ["killed", "after s", "results", "lines", "unaccounted", "missing", "twice", "other bytes",
                 "leftovers"],
                rows,
            ),
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main()
