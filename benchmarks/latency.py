"""How fast the demo model refines a mask: engines beside PyTorch, side by side in one run.

    python -m benchmarks.latency      writes benchmarks/results/latency.{json,md}

Contestants take turns, call by call, so that whatever else the machine does falls on all alike;
ratios are of medians.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import markdown_table, write_result
from segrefine.assets import demo_bundle, demo_checkpoint, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.export.graph import example_inputs
from segrefine.export.modules import GRAPHS, Source
from segrefine.export.parity import Scene, run_reference
from segrefine.reference.attention import inject_masks
from segrefine.reference.checkpoint import Checkpoint, load_checkpoint
from segrefine.reference.g4seg import G4Seg
from segrefine.runtime.pipeline import Refiner

Times = dict[str, list[float]]
COLUMNS = ("component", "batch", "eager ms", "engine ms", "eager ÷ engine", "GFLOP", "share")


@click.command()
@click.option("--repeats", default=15, show_default=True, help="Calls of each contestant.")
@click.option("--threads", default=2, show_default=True)
def main(repeats: int, threads: int) -> None:
    """Measure latency of the whole loop, of each component, and of a cold start."""
    torch.set_num_threads(threads)
    peak = _peak_gflops()
    with tempfile.TemporaryDirectory() as scratch, Refiner.from_bundle(demo_bundle(), threads=threads) as refiner:
        loop = _loop(refiner, repeats)
        components = _components(refiner, load_checkpoint(demo_checkpoint()), repeats, peak)
        cold = _cold(Path(scratch), max(3, repeats // 3))
    medians = {name: float(np.median(times)) for name, times in loop.items()}
    ratio = medians["PyTorch eager"] / medians["segrefine"]
    loop_rows = [[name, f"{1e3 * t:.1f}", f"{t / medians['segrefine']:.2f}"] for name, t in medians.items()]
    markdown = "\n\n".join(
        [
            "# Latency",
            f"One 128×128 image, demo model, {threads} threads, {repeats} interleaved calls each; medians.",
            f"**Whole loop: PyTorch eager ÷ segrefine = {ratio:.2f}** (bar: 3).",
            markdown_table(["whole refine loop", "ms", "÷ segrefine"], loop_rows),
            "## Components",
            f"Share: arithmetic rate over this machine's own float32 matrix product, {peak:.0f} GFLOP/s.",
            markdown_table(COLUMNS, components),
            "## Cold start",
            markdown_table(
                ["process", "seconds", "bar"], [[n, f"{np.median(t):.2f}", b] for n, (t, b) in cold.items()]
            ),
        ]
    )
    click.echo(markdown)
    data = {"loop_seconds": loop, "eager_over_ours": ratio, "components": components, "cold": cold, "peak_gflops": peak}
    write_result("latency", data, markdown)


def _loop(refiner: Refiner, repeats: int) -> Times:
    """Seconds of the whole loop, edge step included, by contestant."""
    sample = next(iter(load_samples(demo_samples()).values()))
    scene = Scene(image=sample.image, coarse=sample.coarse, label=sample.label)
    eager, compiled = (
        G4Seg(load_checkpoint(demo_checkpoint()), refiner.settings, refiner.bundle.manifest.feature_taps) for _ in "ab"
    )
    compiled.model.unet.compile()
    return take_turns(
        {
            "segrefine": lambda: refiner(scene.image, scene.coarse, scene.label),
            "PyTorch eager": lambda: run_reference(refiner, eager, scene),
            "torch.compile": lambda: run_reference(refiner, compiled, scene),
        },
        repeats,
    )


def take_turns(contestants: Mapping[str, Callable[[], object]], repeats: int) -> Times:
    """Seconds of each call; everyone runs three times unmeasured, then they take turns."""
    times: Times = {name: [] for name in contestants}
    for turn in range(-3, repeats):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            if turn >= 0:
                times[name].append(time.perf_counter() - began)
    return times


def _components(refiner: Refiner, checkpoint: Checkpoint, repeats: int, peak: float) -> list[list[str]]:
    """One row for each graph: eager PyTorch (attention with the bias written out) beside the engine."""
    manifest, rows = refiner.bundle.manifest, []
    source = Source(checkpoint=checkpoint, injector=inject_masks(checkpoint.unet), taps=manifest.feature_taps)
    side = manifest.sample_size
    pixels = {"height": side, "width": side, "pixels": side * side, "tokens": manifest.tokens}
    pixels |= {"image_height": side * manifest.vae_scale_factor, "image_width": side * manifest.vae_scale_factor}
    for name, engine in refiner.engines.items():
        batch = 8 if name == "unet" else 1
        module = GRAPHS[name](source)
        inputs = example_inputs(module, pixels | {"batch": batch})
        feeds = {tensor.name: value.numpy() for tensor, value in zip(engine.spec.inputs, inputs, strict=True)}
        with torch.inference_mode():
            with FlopCounterMode(display=False) as counter:
                module(*inputs)
            times = take_turns({"eager": partial(module, *inputs), "engine": partial(engine, feeds)}, repeats)
        eager, ours = (float(np.median(times[each])) for each in ("eager", "engine"))
        gflop = counter.get_total_flops() / 1e9
        row = [name, batch, f"{1e3 * eager:.2f}", f"{1e3 * ours:.2f}", f"{eager / ours:.2f}", f"{gflop:.2f}"]
        rows.append([str(cell) for cell in row] + [f"{gflop / ours / peak:.0%}"])
    return rows


def _cold(scratch: Path, repeats: int) -> dict[str, tuple[list[float], str]]:
    """Seconds of fresh processes, and what they may take."""
    name, sample = next(iter(load_samples(demo_samples()).items()))
    image, mask = (str(demo_samples() / part / f"{name}.png") for part in ("images", "masks"))
    run = "from segrefine.cli import main; main()"
    refine = ["refine", image, mask, "--label", sample.label, "-o", str(scratch / "mask.png")]
    processes = {
        "segrefine refine, demo model": ([sys.executable, "-c", run, *refine], "≤ 2"),
        "import segrefine.runtime": ([sys.executable, "-c", "import segrefine.runtime.pipeline"], "≤ 0.3"),
        "python alone": ([sys.executable, "-c", "pass"], ""),
    }
    commands = {
        what: partial(subprocess.run, command, check=True, capture_output=True)
        for what, (command, _) in processes.items()
    }
    return {what: (times, processes[what][1]) for what, times in take_turns(commands, repeats).items()}


def _peak_gflops(side: int = 1536, repeats: int = 8) -> float:
    """The best rate of a float32 matrix product on these threads."""
    left, right = torch.randn(side, side), torch.randn(side, side)
    seconds = take_turns({"product": lambda: left @ right}, repeats)["product"]
    return 2 * side**3 / min(seconds) / 1e9


if __name__ == "__main__":
    main()
