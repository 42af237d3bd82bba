"""Speed of the demo model on masks: engines and PyTorch, measured side by side in one run.

    python -m benchmarks.latency      writes benchmarks/results/latency.{json,md}

Contestants take turns, call by call, so that whatever else the machine does falls on all alike;
ratios are of medians.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.report import markdown_table, write_result
from benchmarks.timing import (
    COMPONENT_COLUMNS,
    ENGINES,
    Times,
    open_on_all,
    peak_gflops,
    sample_scenes,
    take_turns,
    time_components,
)
from segrefine.assets import demo_bundle, demo_checkpoint, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.export.modules import GRAPHS, GraphSource
from segrefine.export.parity import run_reference
from segrefine.reference.attention import attend_naive
from segrefine.reference.checkpoint import Checkpoint, load_checkpoint
from segrefine.reference.g4seg import G4Seg
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner

Refiners = Mapping[str, Refiner]
Contestants = dict[str, Callable[[], object]]


@click.command()
@click.option("--repeats", default=15, show_default=True, help="Calls of each contestant.")
@click.option("--threads", default=2, show_default=True)
def main(repeats: int, threads: int) -> None:
    """Measure latency of the whole loop, of each component, and of a cold start."""
    torch.set_num_threads(threads)
    peak = peak_gflops()
    checkpoint = load_checkpoint(demo_checkpoint())
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        refiners = open_on_all(Refiner, demo_bundle(), threads, stack)
        loop = _loop(refiners, repeats)
        components = _components(refiners, checkpoint, repeats, peak)
        overlaps = _overlaps(refiners, checkpoint)
        cold = _cold(Path(scratch), max(3, repeats // 3))
    eager = float(np.median(loop["PyTorch eager"]))
    ratios = {name: eager / float(np.median(times)) for name, times in loop.items()}
    rows = [
        [name, f"{1e3 * eager / ratio:.1f}", f"{ratio:.2f}", *([f"{overlaps[name]:.4f}"] if name in overlaps else [""])]
        for name, ratio in ratios.items()
    ]
    fastest = max(ENGINES, key=lambda name: ratios[name])
    markdown = "\n\n".join(
        [
            "# Latency",
            f"One 128×128 image, demo model, {threads} threads, {repeats} interleaved calls each; medians.",
            f"**Whole loop: PyTorch eager ÷ segrefine on {fastest} = {ratios[fastest]:.2f}** (bar: 3).",
            "PyTorch computes in float32, one UNet call for each noise level and strength, as its code reads; "
            "segrefine puts them in one batch. bf16: the denoiser in bfloat16.",
            markdown_table(["whole refine loop", "ms", "eager ÷ this", "least IoU with eager's mask, 12 scenes"], rows),
            "## Components",
            "The same batch for all, the UNet with its features, which the loop leaves out where it can.",
            f"Share: arithmetic rate over this machine's own float32 matrix product, {peak:.0f} GFLOP/s.",
            markdown_table(COMPONENT_COLUMNS, components),
            "## Cold start",
            "Fresh processes, of modules whose bytecode is there, as after an installation.",
            markdown_table(
                ["process", "seconds", "bar"], [[n, f"{np.median(t):.2f}", b] for n, (t, b) in cold.items()]
            ),
        ]
    )
    click.echo(markdown)
    data = {"loop_seconds": loop, "eager_over": ratios, "least_iou": overlaps, "components": components, "cold": cold}
    write_result("latency", data | {"peak_gflops": peak}, markdown)


def _loop(refiners: Refiners, repeats: int) -> Times:
    """Seconds of the whole loop, edge step included, by contestant."""
    scene, any_of = sample_scenes()[0], next(iter(refiners.values()))
    eager, compiled = (
        G4Seg(load_checkpoint(demo_checkpoint()), any_of.settings, any_of.bundle.manifest.feature_taps) for _ in "ab"
    )
    compiled.model.unet.compile()
    given = scene.image, scene.coarse, scene.label
    ours: Contestants = {name: partial(refiner, *given, crop=False, guard=False) for name, refiner in refiners.items()}
    theirs: Contestants = {
        "PyTorch eager": partial(run_reference, any_of, eager, scene),
        "torch.compile": partial(run_reference, any_of, compiled, scene),
    }
    return take_turns(ours | theirs, repeats)


def _overlaps(refiners: Refiners, checkpoint: Checkpoint) -> dict[str, float]:
    """Return the lowest IoU of each engine's mask with the reference's."""
    least = dict.fromkeys(refiners, 1.0)
    any_of = next(iter(refiners.values()))
    reference = G4Seg(checkpoint, any_of.settings, any_of.bundle.manifest.feature_taps)
    for scene in sample_scenes():
        _, expected = run_reference(any_of, reference, scene)
        for name, refiner in refiners.items():
            found = refiner(scene.image, scene.coarse, scene.label, crop=False, guard=False).mask
            least[name] = min(least[name], iou(found, expected))
    return least


def _components(refiners: Refiners, checkpoint: Checkpoint, repeats: int, peak: float) -> list[list[str]]:
    taps = next(iter(refiners.values())).bundle.manifest.feature_taps
    source = GraphSource(checkpoint=checkpoint, attend=attend_naive, taps=taps)
    return time_components(refiners, lambda name: GRAPHS[name](source), {"unet": 24}, repeats, peak)


def _cold(scratch: Path, repeats: int) -> dict[str, tuple[list[float], str]]:
    """Seconds of fresh processes, and what they may take; their modules are compiled, as installing compiles them."""
    name, sample = next(iter(load_samples(demo_samples()).items()))
    image, mask = (str(demo_samples() / part / f"{name}.png") for part in ("images", "masks"))
    run = "from segrefine.cli import main; main()"
    refine = ["refine", image, mask, "--label", sample.label, "-o", str(scratch / "mask.png")]
    processes = {
        "segrefine refine, demo model": ([sys.executable, "-c", run, *refine], "≤ 1.5"),
        "import segrefine.runtime": ([sys.executable, "-c", "import segrefine.runtime.pipeline"], "≤ 0.3"),
        "python alone": ([sys.executable, "-c", "pass"], ""),
    }
    compiled = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(scratch / "bytecode")}
    commands = {
        what: partial(subprocess.run, command, check=True, capture_output=True, env=compiled)
        for what, (command, _) in processes.items()
    }
    return {what: (times, processes[what][1]) for what, times in take_turns(commands, repeats).items()}


if __name__ == "__main__":
    main()
