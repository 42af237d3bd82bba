"""Zero-shot segmentation: the PyTorch reference beside the engines, call by call in turns.

python -m benchmarks.zero_shot_latency                 the demo model; writes benchmarks/results/zero_shot_latency.*
python -m benchmarks.zero_shot_latency --models sd15   Stable Diffusion 1.5's size with random weights
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.full_size import FOLDER, write_full_size
from benchmarks.report import markdown_table, read_result, write_result
from benchmarks.timing import take_turns
from segrefine.assets import demo_bundle, demo_checkpoint
from segrefine.export import export_bundle
from segrefine.export.comparison import ParityScene
from segrefine.export.zero_shot_parity import run_zero_shot_reference
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.zero_shot import ZeroShot
from segrefine.runtime.zero_shot import ZeroShotSegmenter

BARS = {"demo": 4.0, "sd15": 2.5}


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--models", multiple=True, type=click.Choice(list(BARS)), default=("demo",))
@click.option("--backend", default="auto", show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(folder: Path, models: tuple[str, ...], backend: str, repeats: int, threads: int) -> None:
    """Measure whole calls."""
    torch.set_num_threads(threads)
    try:
        data = dict(read_result("zero_shot_latency"))
    except FileNotFoundError:
        data = {}
    for name in models:
        data[name] = _measure(name, folder, backend, repeats, threads)
    rows = [
        [name, f"{each['eager']:.2f} s", f"{each['ours']:.2f} s", f"{each['eager'] / each['ours']:.2f}", f"≥ {bar:g}"]
        for name, bar in BARS.items()
        if (each := data.get(name))
    ]
    markdown = "\n\n".join(
        [
            "# Latency of zero-shot segmentation",
            "One image at the model's own size and one phrase: medians of calls that take turns. Eager is PyTorch in "
            "float32, which denoises without words once for all phrases, as ours does.",
            markdown_table(["model", "eager PyTorch", "ours", "eager ÷ ours", "bar"], rows),
        ]
    )
    click.echo(markdown)
    write_result("zero_shot_latency", data, markdown)


def _measure(name: str, folder: Path, backend: str, repeats: int, threads: int) -> dict[str, Any]:
    if name == "demo":
        checkpoint, bundle = demo_checkpoint(), demo_bundle()
    else:
        checkpoint = write_full_size(name, folder, torch.float32)
        bundle = export_bundle(checkpoint, folder / f"{name}-bundle", overwrite=True, progress=click.echo).path
    phrases = ["the fox"]
    with ZeroShotSegmenter.from_bundle(bundle, backend=backend, threads=threads) as segmenter:
        reference = ZeroShot(load_checkpoint(checkpoint), segmenter.settings)
        side = segmenter.resolution
        image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        scene = ParityScene(image=image, coarse=np.zeros((side, side), np.float32), label="fox")
        times = take_turns(
            {
                "eager": lambda: run_zero_shot_reference(segmenter, reference, scene, phrases),
                "ours": lambda: segmenter.look(image, phrases),
            },
            repeats,
        )
    return {contestant: float(np.median(each)) for contestant, each in times.items()}


if __name__ == "__main__":
    main()
