"""Label maps: four labels of one image refined jointly, beside each refined alone and then fused.

    python -m benchmarks.label_maps              the test scenes; writes benchmarks/results/label_maps.*
    python -m benchmarks.label_maps --validation other scenes, on which settings are chosen; writes nothing

Scenes are those of `benchmarks.quality`, with four objects each, every mask spoilt in its own way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.corruptions import CORRUPTIONS, corrupt
from benchmarks.quality import TEST_SEED, VALIDATION_SEED
from benchmarks.report import estimate, markdown_table, paired_difference, write_result
from segrefine.assets import demo_bundle
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.refinement import label_map
from segrefine.settings import G4SegSettings
from training.demo.captions import NAMES
from training.demo.scenes import DemoScene, compose_scene
from training.demo.sources import load_sources

LABELS = 4
ALONE, JOINT = "each alone, then fused", "jointly"
Floats = NDArray[np.float32]
Divide = Callable[[NDArray[np.uint8], list[tuple[str, Floats]]], NDArray[np.uint16]]


@dataclass(frozen=True, kw_only=True)
class LabelMapCase:
    """A scene and a spoilt mask of each object, with its label, in the order of the objects."""

    scene: DemoScene
    masks: list[tuple[str, Floats]]

    def score(self, labels: NDArray[np.uint16]) -> float:
        """The mean IoU of a label map's objects."""
        return float(np.mean([iou(labels == k, self.scene.instances == k) for k in range(1, LABELS + 1)]))


@click.command()
@click.option("--scenes", default=80, show_default=True)
@click.option("--validation", is_flag=True, help="Use the validation scenes and write nothing.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
def main(scenes: int, validation: bool, threads: int, cache: Path) -> None:
    """Measure what refining the labels of an image jointly brings, and what it costs."""
    cases = _make_cases(scenes, VALIDATION_SEED if validation else TEST_SEED, cache)
    with Refiner.from_bundle(demo_bundle(), threads=threads) as refiner:
        methods = _methods(refiner)
        scores: dict[str, list[float]] = {name: [] for name in methods}
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        for case in [cases[0], *cases]:  # the first once more, to warm up
            for name, divide in methods.items():
                began = time.perf_counter()
                labels = divide(case.scene.image, case.masks)
                seconds[name].append(time.perf_counter() - began)
                scores[name].append(case.score(labels))
    scores, seconds = ({name: values[1:] for name, values in each.items()} for each in (scores, seconds))
    markdown, data = _report(scores, seconds)
    click.echo(markdown)
    if not validation:
        write_result("label_maps", {**data, "scenes": len(cases), "threads": threads}, markdown)


def _make_cases(count: int, first: int, cache: Path) -> list[LabelMapCase]:
    """The scenes in which every object can be spoilt, each by a kind drawn for it."""
    sources, cases = load_sources(cache, held_out=True), []
    for seed in range(first, first + count):
        scene, masks = compose_scene(np.random.default_rng(seed), sources, count=LABELS), []
        for target in np.unique(scene.instances)[1:].tolist():
            rng = np.random.default_rng([seed, target])
            spoilt = (corrupt(kind, scene.instances, target, rng) for kind in rng.permutation(list(CORRUPTIONS)))
            coarse = next((mask for mask in spoilt if mask is not None), None)
            if coarse is not None:
                masks.append((NAMES[scene.classes[target - 1]], coarse))
        if len(masks) == LABELS:
            cases.append(LabelMapCase(scene=scene, masks=masks))
    return cases


def _methods(refiner: Refiner) -> dict[str, Divide]:
    def coarse(image: NDArray[np.uint8], masks: list[tuple[str, Floats]]) -> NDArray[np.uint16]:
        return label_map(np.stack([mask for _, mask in masks]))

    def alone(image: NDArray[np.uint8], masks: list[tuple[str, Floats]]) -> NDArray[np.uint16]:
        results = [refiner(image, mask, label, crop=False, guard=False) for label, mask in masks]
        return label_map(result.probability for result in results)

    def jointly(settings: G4SegSettings) -> Divide:
        changed = refiner.derive(settings=settings)
        return lambda image, masks: label_map(
            np.stack([result.probability for result in changed(image, masks, crop=False, guard=False)])
        )

    return {
        "coarse masks, fused": coarse,
        ALONE: alone,
        JOINT: jointly(refiner.settings),
        "jointly, no rivalry": jointly(replace(refiner.settings, text_rivalry=0.0)),
    }


def _report(scores: dict[str, list[float]], seconds: dict[str, list[float]]) -> tuple[str, dict[str, object]]:
    rows: list[list[object]] = []
    figures: dict[str, dict[str, Any]] = {}
    for name, values in scores.items():
        mean, gain = estimate(values), paired_difference(values, scores[ALONE])
        share = float(np.median(seconds[name]) / np.median(seconds[ALONE]))
        figures[name] = {"miou": mean, "minus_alone": gain, "seconds": float(np.median(seconds[name])), "ratio": share}
        described = f"{mean.mean:.3f} ± {mean.standard_error:.3f}"
        rows.append([name, described, gain, 1000 * np.median(seconds[name]), f"{share:.2f}"])
    joint = figures[JOINT]
    difference, ratio = paired_difference(scores[JOINT], scores[ALONE]), joint["ratio"]
    worse = difference.mean < -2 * difference.standard_error
    bars = [
        ["mIoU, jointly minus alone", ">= 0", str(difference), "yes" if difference.mean >= 0 else
         "no" if worse else "no, but within two standard errors"],
        ["time, jointly over alone", "<= 0.5", f"{ratio:.2f}", "yes" if ratio <= 0.5 else "no"],
    ]  # fmt: skip
    markdown = "\n\n".join(
        [
            "# Label maps",
            f"{len(scores[JOINT])} held-out scenes of {LABELS} objects, every mask spoilt in its own way. Mean IoU of "
            "the objects in the label map, in which each pixel has the most probable label of those above one half; "
            "median milliseconds an image, methods in turn.",
            markdown_table(["method", "mIoU", "minus alone", "ms", "time over alone"], rows),
            "## Bars",
            markdown_table(["figure", "bar", "measured", "met"], bars),
        ]
    )
    return markdown, {"methods": figures, "bars": bars}


if __name__ == "__main__":
    main()
