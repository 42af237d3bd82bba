"""Checks of `segrefine train`: it learns, survives a kill, splits over processes, and estimates its memory.

    python -m benchmarks.training overfit --data DIR   50 labelled images, ten minutes from demo-gs
    python -m benchmarks.training kills                killed by SIGKILL and resumed, against an undisturbed run
    python -m benchmarks.training processes            two processes against one
    python -m benchmarks.training memory               the estimate against the measured peak

Each part writes its figures into benchmarks/results/training.{json,md}, and keeps those of the other parts.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import psutil
import torch
from click import group, option

from benchmarks.full_size import FOLDER, write_full_size
from benchmarks.report import markdown_table, read_result, write_result
from tests.train.data import write_label_maps

TRAIN = [sys.executable, "-m", "segrefine.cli", "train"]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--master_port", "29517", "--nproc_per_node"]
"""Starts processes on the CPU. `accelerate launch --cpu` starts one, whatever --num_processes says."""
SMALL = ["--from", "tiny", "--batch", "4", "--held-out", "0.25", "--validation-limit", "2", "--cpu"]
IMAGES, MINUTES = 50, 10
GIB = 2**30


@group()
def main() -> None:
    """Measure what `segrefine train` promises."""


@main.command()
@option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder with images/ and masks/.")
@option("--steps", default=1750, show_default=True)
def overfit(data: Path, steps: int) -> None:
    """IoU on 50 images after training on them, from demo-gs; ten minutes of two cores are 20 minutes of CPU time."""
    with tempfile.TemporaryDirectory() as scratch:
        chosen, output = _subset(data, Path(scratch) / "data"), Path(scratch) / "run"
        words = ["--from", "demo-gs", "--validation", str(chosen), "--validate-minutes", "1000", "--steps", str(steps),
                 "--batch", "16", "--phrases", "4", "--learning-rate", "1e-3", "--ema", "0.99", "--train-image",
                 "--augmentation", "none", "--paste", "0", "--mosaic", "0", "--drop-image", "0", "--drop-phrase", "0",
                 "--own-share", "0", "--cpu"]  # fmt: skip
        began = _cpu_seconds()
        values = _json([*TRAIN, str(chosen), str(output), *words, "--json"])
        seconds = _cpu_seconds() - began
        subprocess.run([*TRAIN[:-1], "export", str(output / "checkpoint"), str(output / "bundle")], check=True)
        parity = [*TRAIN[:-1], "parity", str(output / "bundle"), "--reference", str(output / "checkpoint")]
        agrees = subprocess.run(parity, check=False).returncode == 0
    _keep("overfit", {
        "miou": values["best_miou"], "cpu_minutes": seconds / 60, "steps": steps, "images": IMAGES, "parity": agrees,
    })  # fmt: skip


@main.command()
@option("--trials", default=2, show_default=True)
@option("--steps", default=12, show_default=True)
@option("--seed", default=0, show_default=True)
def kills(trials: int, steps: int, seed: int) -> None:
    """Kill runs by SIGKILL at random moments, resume them, and compare their weights with an undisturbed run's."""
    rng, equal, killed_at = random.Random(seed), [], []
    with tempfile.TemporaryDirectory() as scratch:
        data = write_label_maps(Path(scratch) / "data")
        words = [*SMALL, "--steps", str(steps), "--save-minutes", "1e-6", "--validate-minutes", "1000"]
        subprocess.run([*TRAIN, str(data), f"{scratch}/whole", *words], check=True)
        for trial in range(trials):
            output = Path(scratch) / str(trial)
            process = subprocess.Popen([*TRAIN, str(data), str(output), *words])
            target = rng.randint(1, steps - 2)
            while _steps_of(output) < target and process.poll() is None:
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 1))
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed_at.append(_steps_of(output))
            subprocess.run([*TRAIN, str(data), str(output), *words, "--resume"], check=True)
            equal.append(_same(Path(scratch) / "whole", output))
    _keep("kills", {"trials": trials, "equal": sum(equal), "steps": steps, "killed_at": killed_at})


@main.command()
@option("--steps", default=50, show_default=True)
def processes(steps: int) -> None:
    """The loss after some steps, of one process and of two with the same batch."""
    losses = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = write_label_maps(Path(scratch) / "data", count=16)
        for count in (1, 2):
            output = Path(scratch) / str(count)
            words = [*SMALL, "--steps", str(steps), "--validate-minutes", "1000"]
            command = [*LAUNCH, str(count), *TRAIN[1:], str(data), str(output), *words]
            subprocess.run(command, check=True, env={**os.environ, "ACCELERATE_USE_CPU": "true"})
            ran = len(list((output / "training").glob("words-*")))
            if ran != count:
                raise RuntimeError(f"expected {count} processes, and {ran} ran")
            losses[count] = [line for line in _log(output) if line["event"] == "train"][-1]["mean_loss"]
    _keep("processes", {"one": losses[1], "two": losses[2], "steps": steps,
                        "difference": abs(losses[2] / losses[1] - 1)})  # fmt: skip


@main.command()
@option("--models", multiple=True, default=("demo-gs",), show_default=True, help="demo-gs, sd15, sdxl.")
@option("--measure/--no-measure", default=True, help="Also train a step, and measure its peak.")
def memory(models: Sequence[str], measure: bool) -> None:
    """The estimate of a run's memory, and the measured peak of its first step."""
    found = dict(read_result("training").get("memory", {}))
    with tempfile.TemporaryDirectory() as scratch:
        data = write_label_maps(Path(scratch) / "data")
        for name in models:
            base = name if name == "demo-gs" else str(write_full_size(name, FOLDER, torch.float16))
            words = ["--batch", "128"] if name == "demo-gs" else ["--batch", "2", "--lora", "16", "--no-train-text"]
            output = Path(scratch) / name
            command = [*TRAIN, str(data), str(output), "--from", base, *words, "--steps", "1", "--held-out", "0",
                       "--validate-minutes", "1000", "--cpu", "--ignore-memory", "--own-share", "0"]  # fmt: skip
            found[name] = _watch(command, measure)
    _keep("memory", found)


def _watch(command: Sequence[str], measure: bool) -> dict[str, float | None]:
    """The estimate that a run prints, and the peak of its resident memory in GiB up to the end of its first step."""
    process = subprocess.Popen([*command], stderr=subprocess.PIPE, text=True)
    watched, estimated, peak = psutil.Process(process.pid), 0.0, 0
    assert process.stderr
    for line in process.stderr:
        if "memory: about" in line:
            estimated = float(line.split("about ")[1].split(" GiB")[0])
            break
    while measure and process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.02)
    process.kill()
    return {"estimate_gib": estimated, "measured_gib": peak / GIB if measure else None}


def _cpu_seconds() -> float:
    """Seconds of CPU time of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _subset(data: Path, target: Path) -> Path:
    """The first images of a data set, by name, with their masks."""
    for name in ("images", "masks"):
        (target / name).mkdir(parents=True)
    masks = sorted((data / "masks").iterdir())[:IMAGES]
    for mask in masks:
        shutil.copy(mask, target / "masks")
        shutil.copy(next((data / "images").glob(f"{mask.stem}.*")), target / "images")
    return target


def _json(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run([*command], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def _log(output: Path) -> list[dict[str, Any]]:
    file = output / "training/log.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def _steps_of(output: Path) -> int:
    """The step of the saved state; 0 where there is none that can be read."""
    file = output / "training/state.pt"
    return int(torch.load(file, weights_only=True)["step"]) if file.is_file() else 0


def _same(one: Path, other: Path) -> bool:
    states = [torch.load(folder / "training/state.pt", weights_only=True) for folder in (one, other)]
    return all(
        torch.equal(tensor, states[1][part][name])
        for part in ("weights", "average")
        for name, tensor in states[0][part].items()
    )


def _keep(part: str, values: Mapping[str, Any]) -> None:
    data = read_result("training") | {part: values}
    write_result("training", data, _describe(data))
    print(json.dumps(values, indent=2))


def _describe(data: Mapping[str, Any]) -> str:
    rows = []
    if found := data.get("overfit"):
        text = f"{found['miou']:.3f} after {found['cpu_minutes']:.0f} min of CPU time, {found['steps']} steps"
        bar = ">= .90 in 20 min of CPU time"
        rows.append([f"overfit {found['images']} images from demo-gs: mean IoU", bar, text])
        rows.append(["parity of its export", "all ok", "all ok" if found["parity"] else "not ok"])
    if found := data.get("kills"):
        text = f"{found['equal']} of {found['trials']} (killed after steps {found['killed_at']} of {found['steps']})"
        rows.append(["killed by SIGKILL and resumed: weights equal to the bit", "all", text])
    if found := data.get("processes"):
        text = f"{found['difference']:.2%} ({found['one']:.4f} and {found['two']:.4f})"
        rows.append([f"two processes against one, loss after {found['steps']} steps", "within 1 %", text])
    for name, each in data.get("memory", {}).items():
        measured = "not measured" if each["measured_gib"] is None else f"measured {each['measured_gib']:.2f} GiB"
        rows.append([f"memory of {name}", "within 20 %", f"estimate {each['estimate_gib']:.1f} GiB, {measured}"])
    table = markdown_table(["promise", "bar", "measured"], rows)
    return "\n\n".join(["# Training", "Written by `python -m benchmarks.training`. Each part runs on its own.", table])


if __name__ == "__main__":
    main()
