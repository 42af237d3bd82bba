"""Zero-shot segmentation: the PyTorch reference beside the engines, call by call in turns.

python -m benchmarks.zero_shot_latency                 the demo model; writes benchmarks/results/zero_shot_latency.*
python -m benchmarks.zero_shot_latency --models sd15   Stable Diffusion 1.5's size with random weights; where memory is
short, with --engine "OpenVINO bf16" alone
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.full_size import FOLDER, write_full_size
from benchmarks.report import markdown_table, read_result, write_result
from benchmarks.timing import ENGINES, open_on_all, take_turns
from segrefine.assets import demo_bundle, demo_checkpoint
from segrefine.export import export_bundle
from segrefine.export.comparison import ParityScene
from segrefine.export.zero_shot_parity import run_zero_shot_reference
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.zero_shot import ZeroShot
from segrefine.runtime.zero_shot import ZeroShotSegmenter

BARS = {"demo": 4.0, "sd15": 2.5}
EAGER = "PyTorch eager"


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--models", multiple=True, type=click.Choice(list(BARS)), default=("demo",))
@click.option("--engine", "engines", multiple=True, type=click.Choice(list(ENGINES)), help="Only this.  [default: all]")
@click.option("--repeats", default=9, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(folder: Path, models: tuple[str, ...], engines: tuple[str, ...], repeats: int, threads: int) -> None:
    """Measure whole calls."""
    torch.set_num_threads(threads)
    try:
        data = dict(read_result("zero_shot_latency"))
    except FileNotFoundError:
        data = {}
    for name in models:
        data[name] = _measure(name, folder, engines or tuple(ENGINES), repeats, threads)
    rows = [
        [
            name,
            contestant,
            f"{seconds:.3f}",
            f"{each[EAGER] / seconds:.2f}",
            f"≥ {bar:g}" if contestant != EAGER else "",
        ]
        for name, bar in BARS.items()
        if (each := data.get(name))
        for contestant, seconds in each.items()
    ]
    markdown = "\n\n".join(
        [
            "# Latency of zero-shot segmentation",
            f"One image at the model's own size and one phrase: medians of calls that take turns, {threads} threads. "
            "Eager is PyTorch in float32, which denoises without words once for all phrases, as ours does. The bar is "
            "for the fastest of ours.",
            markdown_table(["model", "contestant", "s", "eager ÷ this", "bar"], rows),
        ]
    )
    click.echo(markdown)
    write_result("zero_shot_latency", data, markdown)


def _measure(name: str, folder: Path, engines: Collection[str], repeats: int, threads: int) -> dict[str, Any]:
    """Median seconds of a call: of the PyTorch reference, and of each engine."""
    if name == "demo":
        checkpoint, bundle = demo_checkpoint(), demo_bundle()
    else:
        checkpoint = write_full_size(name, folder, torch.float32)
        bundle = folder / f"{name}-bundle"
        if not bundle.exists():
            export_bundle(checkpoint, bundle, progress=click.echo)
    with ExitStack() as stack:
        ours = open_on_all(ZeroShotSegmenter, bundle, threads, stack, engines)
        first = next(iter(ours.values()))
        reference = ZeroShot(load_checkpoint(checkpoint), first.settings)
        side = first.resolution
        image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        scene = ParityScene(image=image, coarse=np.zeros((side, side), np.float32), label="fox")
        phrases = ["the fox"]
        calls: dict[str, Callable[[], object]] = {
            engine: partial(segmenter.look, image, phrases) for engine, segmenter in ours.items()
        }
        calls[EAGER] = lambda: run_zero_shot_reference(first, reference, scene, phrases)
        times = take_turns(calls, repeats)
    return {contestant: float(np.median(each)) for contestant, each in times.items()}


if __name__ == "__main__":
    main()
