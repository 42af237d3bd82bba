"""`segrefine demo`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

import click

from segrefine.cli.console import Console, Tell, table, with_console
from segrefine.cli.options import Model, model_options
from segrefine.cli.paths import GivenPath
from segrefine.cli.samples import Sample, load_samples
from segrefine.cli.segment import SPREAD_SAMPLES
from segrefine.errors import OutputError

if TYPE_CHECKING:
    from segrefine.runtime.drawing.pictures import BeforeAfter
    from segrefine.runtime.pipeline import Refiner
    from segrefine.runtime.refinement import Refinement
    from segrefine.runtime.segmentation import Segment

PHOTOGRAPHS, SCENES, SEGMENTS = "photographs.png", "sheet.png", "segments.png"
Result = TypeVar("Result")


@click.command(short_help="Try both methods on photographs: pictures, a table.")
@click.option("--output", metavar="DIR", type=GivenPath(), required=True, help="Folder for the pictures.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed of the noise.")
@model_options
@with_console
def demo(console: Console, output: Path, seed: int, model: Model) -> None:
    """Refine the coarse masks of eight photographs, which training did not see.

    Then find animals and people in the photographs by name alone. In the folder of --output, photographs.png shows the
    masks before and after refining. segments.png shows what was found by name, such as "the cat". masks and overlays
    hold the refined masks.

    In the repository, twelve drawn scenes are refined too, by a model of their own. sheet.png shows them.
    """
    from segrefine.assets import PHOTO_LABELS, SHIPPED_BUNDLES, demo_samples, photo_samples
    from segrefine.storage import output_errors

    photographs = load_samples(photo_samples())
    drawn = load_samples(demo_samples()) if "demo" in SHIPPED_BUNDLES else {}
    with output_errors(output):
        _check_folder(output, [*photographs, *drawn])
        for folder in (output, output / "masks", output / "overlays"):
            folder.mkdir(exist_ok=True)
    with model.open() as refiner:
        photograph_sheet = _refine(console, refiner, photographs, output, output / PHOTOGRAPHS, seed)
    scene_sheet = None
    if drawn:
        with replace(model, bundle=model.bundle or SHIPPED_BUNDLES["demo"]).open() as refiner:
            scene_sheet = _refine(console, refiner, drawn, output, output / SCENES, seed)
    with replace(model, bundle=None).open_segmenter() as segmenter, console.progress("segmenting") as tell:

        def find(scene: Sample) -> Segment:
            spread = {"samples": SPREAD_SAMPLES}
            return segmenter(scene.image, [f"the {scene.label}"], settings=spread, seed=seed).segments[0]

        known = {name: each for name, each in photographs.items() if each.label in PHOTO_LABELS}
        found = _run_all(known, tell, find)
    segments, segments_sheet = _write_segments(output, known, found)
    values = {
        "photographs": photograph_sheet,
        "scenes": scene_sheet,
        "segments": segments,
        "segments_sheet": str(segments_sheet),
        "model": model.to_dict(),
    }
    console.result(values, _describe(values, model))


def _refine(
    console: Console, refiner: Refiner, samples: Mapping[str, Sample], output: Path, sheet: Path, seed: int
) -> dict[str, Any]:
    """Refine a set of samples, write its pictures, and give its figures."""
    with console.progress("refining") as tell:
        started = time.perf_counter()
        results = _run_all(samples, tell, lambda each: refiner(each.image, each.coarse, each.label, seed=seed))
        seconds = time.perf_counter() - started
    rows = {name: _compare(sample, results[name]) for name, sample in samples.items()}
    _write(output, sheet, results, rows)
    return {
        "mean_iou_before": fmean(row.iou_before for row in rows.values()),
        "mean_iou_after": fmean(row.iou_after for row in rows.values()),
        "seconds": seconds,
        "samples": [_entry(output, name, row, results[name]) for name, row in rows.items()],
        "sheet": str(sheet),
    }


def _check_folder(output: Path, names: Iterable[str]) -> None:
    """Checks that a folder has nothing but what the demo writes, so that running it again is fine.

    Raises:
        OutputError: it holds something else.
    """
    own = {PHOTOGRAPHS, SCENES, SEGMENTS, "masks", "overlays"} | {
        f"{kind}/{name}.png" for kind in ("masks", "overlays") for name in names
    }
    for path in output.rglob("*") if output.is_dir() else ():
        if path.relative_to(output).as_posix() not in own and path.suffix != ".partial":  # a killed demo leaves those
            message = f"{output} is not a folder that only the demo wrote to: it has {path.relative_to(output)}"
            raise OutputError(message, hint="choose a new folder for --output")


def _run_all(scenes: Mapping[str, Sample], tell: Tell, run: Callable[[Sample], Result]) -> dict[str, Result]:
    """Run `run` on each scene, and return the results by name."""
    results = {}
    for number, (name, scene) in enumerate(scenes.items()):
        tell(name, number / len(scenes))
        results[name] = run(scene)
    return results


def _write_segments(
    output: Path, scenes: Mapping[str, Sample], found: Mapping[str, Segment]
) -> tuple[list[dict[str, Any]], Path]:
    """Writes the sheet of what was found; gives an entry for each scene, and the sheet's path."""
    from segrefine.runtime.drawing.pictures import segment_sheet
    from segrefine.runtime.files.output import save_image
    from segrefine.runtime.imaging.metrics import iou

    overlaps = {name: iou(segment.mask, scenes[name].truth) for name, segment in found.items()}
    rows = [(scenes[name].image, segment, f"IoU {overlaps[name]:.3f}") for name, segment in found.items()]
    save_image(sheet := output / SEGMENTS, segment_sheet(rows, columns=2))
    entries = [
        {"name": name, "phrase": segment.phrase, "iou": overlaps[name], "confidence": segment.confidence}
        for name, segment in found.items()
    ]
    return entries, sheet


def _compare(scene: Sample, result: Refinement) -> BeforeAfter:
    from segrefine.runtime.drawing.pictures import BeforeAfter
    from segrefine.runtime.imaging.metrics import iou

    coarse = scene.coarse > 0.5
    return BeforeAfter(
        image=scene.image,
        coarse=coarse,
        refined=result.mask,
        label=scene.label,
        iou_before=iou(coarse, scene.truth),
        iou_after=iou(result.mask, scene.truth),
    )


def _write(output: Path, sheet: Path, results: Mapping[str, Refinement], rows: Mapping[str, BeforeAfter]) -> None:
    """Write the mask and the overlay of each sample, and their sheet."""
    from segrefine.runtime.drawing.pictures import before_after_sheet, overlay
    from segrefine.runtime.files.output import save_image, save_mask

    for name, row in rows.items():
        save_mask(output / "masks" / f"{name}.png", results[name].mask)
        save_image(output / "overlays" / f"{name}.png", overlay(row.image, row.refined))
    save_image(sheet, before_after_sheet(list(rows.values())))


def _entry(output: Path, name: str, row: BeforeAfter, result: Refinement) -> dict[str, Any]:
    return {
        "name": name,
        "label": row.label,
        "iou_before": row.iou_before,
        "iou_after": row.iou_after,
        "seconds": sum(result.seconds.values()),
        "mask": str(output / "masks" / f"{name}.png"),
        "overlay": str(output / "overlays" / f"{name}.png"),
    }


def _describe(values: Mapping[str, Any], model: Model) -> str:
    kinds = {name: values[f"{name}s"] for name in ("photograph", "scene") if values[f"{name}s"]}
    named = fmean(entry["iou"] for entry in values["segments"])
    count = sum(len(kind["samples"]) for kind in kinds.values())
    seconds = sum(kind["seconds"] for kind in kinds.values())
    sheets = [kind["sheet"] for kind in kinds.values()]
    return "\n".join(
        [
            "\n\n".join(_tabulate(name, kind) for name, kind in kinds.items()),
            f"\n{count} masks in {seconds:.1f} s, {seconds / count:.2f} s each, with {model.describe()}",
            f"without any mask, by their names alone, the objects are found with a mean IoU of {named:.3f}",
            f"look at {', '.join(sheets)} and {values['segments_sheet']}",
        ]
    )


def _tabulate(kind: str, values: Mapping[str, Any]) -> str:
    """The IoU of each sample before and after, and their means."""
    rows = [(entry["name"], entry["label"], *_cells(entry, "iou_")) for entry in values["samples"]]
    rows.append(("mean", "", *_cells(values, "mean_iou_")))
    return table((kind, "label", "coarse IoU", "refined IoU", "points"), rows)


def _cells(values: Mapping[str, Any], prefix: str) -> list[str]:
    """The IoU before, the IoU after, and the gain in points."""
    before = values[f"{prefix}before"]
    after = values[f"{prefix}after"]
    return [f"{before:.3f}", f"{after:.3f}", f"{100 * (after - before):+.1f}"]
