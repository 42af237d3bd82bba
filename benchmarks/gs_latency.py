"""Speed of the demo model on phrases: engines and PyTorch, measured side by side in one run.

python -m benchmarks.gs_latency      writes benchmarks/results/gs_latency.{json,md}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import click
import numpy as np
import torch

from benchmarks.report import markdown_table, write_result
from benchmarks.timing import (
    COMPONENT_COLUMNS,
    ENGINES,
    open_on_all,
    peak_gflops,
    sample_scenes,
    take_turns,
    time_components,
)
from segrefine.assets import demo_gs_bundle, demo_gs_checkpoint
from segrefine.export.label_parity import run_label_reference, with_samples
from segrefine.export.modules import LABEL_GRAPHS
from segrefine.reference.checkpoint import LabelCheckpoint, load_label_checkpoint
from segrefine.reference.gs import Gs
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.segmentation import Segment
from segrefine.runtime.segmenter import Segmenter
from segrefine.settings import GsSettings

Segmenters = Mapping[str, Segmenter]
PHRASES = (
    *("the banana", "the red car", "all apples", "the fox left of the tree", "the background"),
    *("the big boat", "the penguin and the crown", "the bananas"),
)
"""For the first of the shipped scenes: of what is there and of what is not."""
COUNTS, EAGER = (1, 8), "PyTorch eager"
CAREFUL = {"samples": 8, "steps": 4}
"""Settings that give an uncertainty, of the curves in `benchmarks.gs_quality`."""


@click.command()
@click.option("--repeats", default=15, show_default=True, help="Calls of each contestant.")
@click.option("--threads", default=2, show_default=True)
def main(repeats: int, threads: int) -> None:
    """Measure latency of the whole loop, for one phrase and for eight, and of each component."""
    torch.set_num_threads(threads)
    peak, checkpoint = peak_gflops(), load_label_checkpoint(demo_gs_checkpoint())
    with ExitStack() as stack:
        segmenters = open_on_all(Segmenter, demo_gs_bundle(), threads, stack)
        settings = next(iter(segmenters.values())).settings
        eager = Gs(checkpoint, settings)
        loops = {count: _loop(segmenters, eager, PHRASES[:count], repeats) for count in COUNTS}
        careful = _careful_loop(segmenters, checkpoint, repeats)
        batch = {"label_denoiser": settings.samples}
        components = time_components(segmenters, lambda name: LABEL_GRAPHS[name](checkpoint), batch, repeats, peak)
        overlaps = _overlaps(segmenters, eager)
    one, eight = (_medians(loops[count]) for count in COUNTS)
    fastest = min(ENGINES, key=lambda name: one[name])
    markdown = "\n\n".join(
        [
            "# Latency of segmenting",
            f"One 128×128 image, demo model, samples: {settings.samples}, steps: {settings.steps}, guidance: "
            f"{settings.guidance_scale:g}, threads: {threads}; {repeats} interleaved calls each, medians.",
            f"**One phrase, PyTorch eager ÷ segrefine on {fastest} = {one[EAGER] / one[fastest]:.2f}** "
            f"(bar: 3). **Eight phrases ÷ one, same engine = {eight[fastest] / one[fastest]:.2f}** (bar: 4.5 or less).",
            "Both compute all phrases in one batch; without guidance nothing of the empty phrase. bf16: denoiser and "
            "image encoder in bfloat16. Least IoU: of a mask with eager's, over the objects of the 12 shipped scenes.",
            _loop_table(one, eight, overlaps),
            f"One phrase with an uncertainty, {CAREFUL['samples']} samples of {CAREFUL['steps']} steps each:",
            _careful_table(_medians(careful)),
            "## Components",
            f"Share: arithmetic rate over this machine's own float32 matrix product, {peak:.0f} GFLOP/s.",
            markdown_table(COMPONENT_COLUMNS, components),
        ]
    )
    click.echo(markdown)
    data = {"seconds": loops, "careful": careful, "least_iou": overlaps, "components": components, "settings": settings}
    write_result("gs_latency", data | {"peak_gflops": peak}, markdown)


def _loop(segmenters: Segmenters, eager: Gs, phrases: Sequence[str], repeats: int) -> dict[str, list[float]]:
    """Seconds from image and phrases to masks of the image's size, by contestant."""
    scene, any_of = sample_scenes()[0], next(iter(segmenters.values()))
    compiled = Gs(load_label_checkpoint(demo_gs_checkpoint()), eager.settings)
    compiled.model.label_denoiser.compile()
    result = any_of(scene.image, phrases)

    def ours(segmenter: Segmenter) -> None:
        _masks(segmenter(scene.image, phrases).segments)

    def theirs(reference: Gs) -> None:
        _masks(with_samples(result, run_label_reference(any_of, reference, scene, phrases), reference.settings))

    contestants = {name: partial(ours, segmenter) for name, segmenter in segmenters.items()}
    return take_turns(
        contestants | {EAGER: partial(theirs, eager), "torch.compile": partial(theirs, compiled)}, repeats
    )


def _careful_loop(segmenters: Segmenters, checkpoint: LabelCheckpoint, repeats: int) -> dict[str, list[float]]:
    """Time `_loop` for one phrase with `CAREFUL` settings."""
    settings = GsSettings.from_dict(next(iter(segmenters.values())).settings.to_dict() | CAREFUL)
    changed = {name: each.derive(settings=settings) for name, each in segmenters.items()}
    return _loop(changed, Gs(checkpoint, settings), PHRASES[:1], repeats)


def _medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: float(np.median(times)) for name, times in seconds.items()}


def _loop_table(one: Mapping[str, float], eight: Mapping[str, float], overlaps: Mapping[str, float]) -> str:
    rows = [
        [
            *(name, f"{1e3 * one[name]:.1f}", f"{one[EAGER] / one[name]:.2f}"),
            *(f"{1e3 * eight[name]:.1f}", f"{eight[EAGER] / eight[name]:.2f}", f"{eight[name] / one[name]:.2f}"),
            f"{overlaps[name]:.4f}" if name in overlaps else "",
        ]
        for name in one
    ]
    header = ["whole loop", "1 phrase, ms", "eager ÷ this", "8 phrases, ms", "eager ÷ this", "8 ÷ 1", "least IoU"]
    return markdown_table(header, rows)


def _careful_table(medians: Mapping[str, float]) -> str:
    rows = [[name, f"{1e3 * each:.0f}", f"{medians[EAGER] / each:.2f}"] for name, each in medians.items()]
    return markdown_table(["whole loop", "ms", "eager ÷ this"], rows)


def _masks(segments: Sequence[Segment]) -> list[np.ndarray]:
    return [segment.mask for segment in segments]


def _overlaps(segmenters: Segmenters, eager: Gs) -> dict[str, float]:
    """Return the lowest IoU of each engine's masks with the reference's."""
    least, any_of = dict.fromkeys(segmenters, 1.0), next(iter(segmenters.values()))
    for scene in sample_scenes():
        phrases = [f"the {scene.label}"]
        expected = run_label_reference(any_of, eager, scene, phrases)
        for name, segmenter in segmenters.items():
            found = segmenter(scene.image, phrases)
            wanted = with_samples(found, expected, eager.settings)
            least[name] = min(least[name], iou(_masks(found.segments)[0], _masks(wanted)[0]))
    return least


if __name__ == "__main__":
    main()
