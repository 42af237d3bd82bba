"""Quality of zero-shot segmentation: finding the things that words name, without training for masks.

    python -m benchmarks.zero_shot                            held-out demo scenes
    python -m benchmarks.zero_shot --validation               other scenes, on which settings are chosen; writes nothing
    python -m benchmarks.zero_shot --data VOC --bundle MODEL  photographs in VOC's layout, with your own model

Every object is asked for by its own class, and every image by a class that is not in it. VOC holds images/ and masks/,
or JPEGImages/ and SegmentationClass/; classes.json names the indices (VOC's own, otherwise).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.photographs import LEAST_SHARE, VOID, class_names, read_pictures
from benchmarks.report import estimate, markdown_table, write_result
from segrefine.assets import demo_bundle
from segrefine.datasets.classes import VOC
from segrefine.runtime.chain import refine_segments
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmentation import Segment
from segrefine.runtime.zero_shot import ZeroShotSegmenter
from training.demo.captions import NAMES
from training.demo.scenes import compose_scene
from training.demo.sources import load_sources

TEST_SEED, VALIDATION_SEED = 500_000, 600_000
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedScene:
    """An image, the masks of its classes, and a class that it lacks.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        truths: bool (H, W) for each class.
        counted: bool (H, W), the pixels that count.
        absent: a class that is not in the image.
    """

    image: NDArray[np.uint8]
    truths: Mapping[str, Mask]
    counted: Mask
    absent: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """Result for one class that is in an image.

    Attributes:
        attention: area under the ROC curve of the words' attention alone.
        score: the same of the whole map.
        before: IoU of the mask.
        after: IoU of what G4Seg made of it.
        empty: whether nothing was found.
    """

    attention: float
    score: float
    before: float
    after: float
    empty: bool


@click.command()
@click.option("--scenes", default=150, show_default=True, help="Scenes, or photographs of --data.")
@click.option("--validation", is_flag=True, help="Use the validation scenes and write nothing.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Photographs in VOC's layout.")
@click.option("--label", "labels", multiple=True, help="Ask --data for this class; may be given again.  [default: all]")
@click.option("--bundle", type=click.Path(path_type=Path), help="The model.  [default: the shipped demo bundle]")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change a setting; may be given again.")
@click.option("--name", default="zero_shot", show_default=True, help="Name of the result.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
def main(
    scenes: int, validation: bool, data: Path | None, labels: Sequence[str], bundle: Path | None,
    changes: Sequence[str], name: str, cache: Path,
) -> None:  # fmt: skip
    """Measure zero-shot segmentation."""
    first = VALIDATION_SEED if validation else TEST_SEED
    given = photographs(data, scenes, labels) if data else demo_scenes(first, scenes, cache)
    with (
        ZeroShotSegmenter.from_bundle(bundle or demo_bundle()) as opened,
        Refiner.from_bundle(bundle or demo_bundle()) as refiner,
    ):
        kind = type(opened.settings)
        wanted = {key: kind.read_value(key, text) for key, _, text in (each.partition("=") for each in changes)}
        segmenter = opened.derive(settings={"edges": False} | wanted)  # G4Seg moves the borders
        found, absent = [], []
        for scene in tqdm(list(given), desc="scenes"):
            found += [_look(segmenter, refiner, scene, label) for label in scene.truths]
            absent.append(bool(segmenter(scene.image, [f"the {scene.absent}"]).segments[0].mask.any()))
        times = _time_phrases(segmenter)
    rows = _rows(found, absent, times, read=segmenter.settings.attention_weight > 0)
    markdown = "\n\n".join(
        [
            "# Zero-shot segmentation",
            f"{len(found)} objects of {len(absent)} {'photographs' if data else 'held-out demo scenes'}. "
            "Each is asked for by its class alone. Intervals are over objects.",
            markdown_table(["figure", "measured", "bar"], rows),
        ]
    )
    print(markdown)
    if not validation:
        write_result(name, {"rows": [list(map(str, row)) for row in rows]}, markdown)


def demo_scenes(first: int, count: int, cache: Path) -> Iterator[NamedScene]:
    """Scenes of one to four objects of the demo's sixteen classes."""
    sources = load_sources(cache, held_out=True)
    for number in range(first, first + count):
        scene = compose_scene(np.random.default_rng(number), sources)
        truths = {NAMES[index]: scene.instances == place for place, index in enumerate(scene.classes, 1)}
        missing = [each for each in NAMES if each not in truths]
        yield NamedScene(
            image=scene.image, truths=truths, counted=np.ones(scene.instances.shape, np.bool_),
            absent=missing[number % len(missing)],
        )  # fmt: skip


def photographs(data: Path, count: int, labels: Sequence[str]) -> Iterator[NamedScene]:
    """Photographs in VOC's layout, each with its classes that cover at least a hundredth of it.

    Args:
        data: the folder.
        count: how many, evenly spaced in the order of their names.
        labels: the classes that are asked for; empty for all.
    """
    names = class_names(data) or ["background", *VOC.names.values()]
    asked = [i for i, each in enumerate(names) if i and (not labels or each in labels)]
    for number, image, classes, _ in read_pictures(data, count):
        shares = {i: float((classes == i).mean()) for i in asked}
        truths = {names[i]: classes == i for i, share in shares.items() if share > LEAST_SHARE}
        missing = [names[i] for i, share in shares.items() if not share]
        if truths and missing:
            yield NamedScene(image=image, truths=truths, counted=classes != VOID, absent=missing[number % len(missing)])


def _look(segmenter: ZeroShotSegmenter, refiner: Refiner, scene: NamedScene, label: str) -> Found:
    result = segmenter.look(scene.image, [f"the {label}"])
    (segment,), (found,) = result.segmentation.segments, result.maps
    (refined,) = refine_segments(refiner, scene.image, result.segmentation).segments
    truth, counted = scene.truths[label], scene.counted
    return Found(
        attention=_area_under_roc(segment, found.attention, truth, counted),
        score=_area_under_roc(segment, found.score, truth, counted),
        before=iou(segment.mask & counted, truth),
        after=iou(refined.mask & counted, truth),
        empty=not segment.mask.any(),
    )


def _area_under_roc(segment: Segment, values: NDArray[np.float32], truth: Mask, counted: Mask) -> float:
    """Return the area under the ROC curve of a map on the grid, at the image's size."""
    scores = segment.fit.restore(segment.fit.at_pixels(values))[counted]
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    inside = truth[counted]
    positive, negative = int(inside.sum()), int((~inside).sum())
    return float((ranks[inside].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _time_phrases(segmenter: ZeroShotSegmenter) -> float:
    """Measure the time of eight phrases relative to one; the median of interleaved trials."""
    side = segmenter.resolution
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    ratios = []
    for _ in range(7):
        spent = []
        for count in (1, 8):
            began = time.perf_counter()
            segmenter(image, [f"the {name}" for name in NAMES[:count]])
            spent.append(time.perf_counter() - began)
        ratios.append(spent[1] / spent[0])
    return float(np.median(ratios))


def _rows(found: Sequence[Found], absent: Sequence[bool], ratio: float, *, read: bool) -> list[list[Any]]:
    """The table; without a weight of the attention of words, nothing was read of it."""

    def of(name: str) -> Any:
        return estimate([getattr(each, name) for each in found])

    kept = [each for each in found if not each.empty]
    gain = estimate([each.after - each.before for each in kept])
    return [
        *([["area under the ROC curve, attention of the word alone", of("attention"), ""]] if read else []),
        ["area under the ROC curve, whole map", of("score"), "≥ .85"],
        ["IoU of the mask", of("before"), ""],
        ["IoU after G4Seg", of("after"), "≥ before + .05"],
        ["gain of G4Seg where something was found", gain, ""],
        ["classes that are there, and not found", f"{np.mean([each.empty for each in found]):.1%}", ""],
        ["classes that are not there, and found", f"{np.mean(absent):.1%}", "≤ 15 %"],
        ["time of eight phrases ÷ one", f"{ratio:.2f}", "≤ 3"],
    ]


if __name__ == "__main__":
    main()
