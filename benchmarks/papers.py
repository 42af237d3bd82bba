"""The papers' benchmarks on small sets in their formats: protocols, a kill, and figures against another benchmark.

    python -m benchmarks.papers --coco COCO --voc VOC

COCO holds images/ and instances.json. A set in the format of Panoptic Narrative Grounding is made of it. VOC holds
images/, coarse/ and masks/ with PASCAL VOC's indices, and is laid out as VOC. The photographs are not part of the
project. The demo models hardly know photographs: the figures show that everything fits together, not how good a model
is.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.narrative_set import write_narrative_set
from benchmarks.photographs import _methods, read_photographs
from benchmarks.report import RESULTS, markdown_table, write_result
from segrefine.assets import demo_bundle, demo_gs_bundle, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.datasets.class_lists import CLASS_LISTS
from segrefine.datasets.notation import ReadingOptions
from segrefine.datasets.opening import open_data_set
from segrefine.datasets.phrase_results import PREDICTIONS, entry_of
from segrefine.evaluation.comparison import Comparison, Places
from segrefine.evaluation.protocols.judging import Judging
from segrefine.evaluation.protocols.table import PROTOCOLS
from segrefine.evaluation.scores import summarise
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmenter import Segmenter
from segrefine.runtime.words.context import CaptionedPhrase
from segrefine.runtime.zero_shot import ZeroShotSegmenter

_GROUPS = ("overall", "singulars", "plurals", "things", "stuff")
_PARTS = 8
"""Narratives that are predicted before the kill, at least."""
_NAMED = {"coarse": "coarse", "edge-step": "edge step alone", "segrefine": "default"}
"""Methods of `segrefine bench` by their names in `benchmarks.photographs`."""


@click.command()
@click.option("--coco", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--voc", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--images", default=60, show_default=True, help="Images of the narratives.")
@click.option("--photographs", default=24, show_default=True, help="Images of VOC.")
@click.option(
    "--only", type=click.Choice(["narratives", "voc"]), help="Run one of the two, and keep the other's result."
)
@click.option("--sheet", type=click.Path(path_type=Path), help="Copy the sheet of VOC there.")
def main(coco: Path, voc: Path, images: int, photographs: int, only: str | None, sheet: Path | None) -> None:
    """Run both benchmarks on small sets."""
    values = json.loads((RESULTS / "papers.json").read_text()) if only else {}
    with tempfile.TemporaryDirectory() as folder:
        if only != "voc":
            values["narratives"] = measure_narratives(coco, Path(folder), images)
        if only != "narratives":
            values["voc"] = measure_maps(voc, Path(folder), photographs, sheet)
    values = {name: values[name] for name in ("narratives", "voc")}
    write_result("papers", values, to_markdown(values))


def run(*words: object, kill: Path | None = None) -> None:
    """Run a command of segrefine; kill it and all its processes once a folder holds some results."""
    command = [sys.executable, "-m", "segrefine.cli", *map(str, words)]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        if kill is None:
            if process.wait():
                raise click.ClickException(f"it failed: {' '.join(command)}")
            return
        while process.poll() is None and len(list(kill.glob("*.json"))) < _PARTS:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)


def measure_narratives(coco: Path, folder: Path, images: int) -> dict[str, Any]:
    """Predict the narratives, undisturbed and with a kill between, and judge them by each protocol."""
    data = folder / "png"
    count = write_narrative_set(coco, data, images)
    words = ("bench", "png", data, "--workers", "2", "--threads", "1")
    whole, broken = folder / "whole", folder / "broken"
    run(*words, "-o", whole)
    run(*words, "-o", broken, kill=broken / "segrefine/parts")
    left = len(list((broken / "segrefine/parts").glob("*.json")))
    run(*words, "-o", broken, "--resume")
    context = folder / "context"
    run(*words, "-o", context, "--set", "context=true")
    first, second = (json.loads((each / "bench.json").read_text())["methods"]["segrefine"] for each in (whole, broken))
    same = all(first[key] == second[key] for key in ("protocols", "masks"))
    files = [(each / "segrefine" / PREDICTIONS).read_bytes() for each in (whole, broken)]
    return {
        "narratives": count,
        "predicted_before_the_kill": left,
        "equal_after_the_kill": same and files[0] == files[1],
        "context_on_scenes": measure_context(Segmenter, demo_gs_bundle()),
        "context_zero_shot": measure_context(ZeroShotSegmenter, demo_bundle()),
        "demo": judge_all(whole / "segrefine" / PREDICTIONS, data),
        "context": judge_all(context / "segrefine" / PREDICTIONS, data),
        "shifted": judge_all(shift_masks(data, folder / "shifted.json"), data),
        "true": judge_all(shift_masks(data, folder / "true.json", pixels=0), data),
    }


def measure_context(segmenter: type[Segmenter] | type[ZeroShotSegmenter], bundle: Path) -> dict[str, float]:
    """Mean IoU on the shipped scenes: phrases alone, and in captions with and without other words before them."""
    captions = {"alone": "{}", "first in a caption": "{} is here", "behind others": "In this picture we can see {}"}
    found: dict[str, list[float]] = {name: [] for name in captions}
    with segmenter.from_bundle(bundle, threads=1) as segment:
        for sample in load_samples(demo_samples()).values():
            phrase = f"the {sample.label}"
            for name, frame in captions.items():
                caption = frame.format(phrase)
                text = CaptionedPhrase(phrase, caption, caption.index(phrase))
                mask = segment(sample.image, [text], settings={"context": name != "alone"}).segments[0].mask
                found[name].append(iou(mask, sample.truth))
    return {name: float(np.mean(values)) for name, values in found.items()}


def judge_all(predicted: Path, data: Path) -> dict[str, dict[str, float]]:
    """Average recall by each protocol and by the measures of `eval`, and the number of phrases, by group."""
    judging = [Judging(PROTOCOLS[name]) for name in ("png-bcv", "png-ppmn")]
    comparison = Comparison(Places(predicted=predicted, truth=data, reading=ReadingOptions()))

    def judge(name: str, sides: Any) -> None:
        for each in judging:
            each.add(name, sides)

    scores, _ = comparison.score_all(judge=judge)
    found = {each.protocol.name: each.summarise()["after"] for each in judging}
    recalls = {name: values["average_recall"] for name, values in found.items()}
    return recalls | {"full": summarise(scores)["average_recall"], "phrases": found["png-bcv"]["phrases"]}


def shift_masks(data: Path, file: Path, pixels: int = 3) -> Path:
    """Write the true masks as predictions, moved to the right and down by some pixels."""
    source = open_data_set(data)
    phrases = []
    for item in source.items:
        parts = source.read(item)
        for number, mask in parts.masks.items():
            moved = np.roll(np.asarray(mask, np.bool_), (pixels, pixels), (0, 1))
            phrases.append(entry_of(item.name, str(number), parts.labels[number], moved))
    file.write_text(json.dumps({"phrases": phrases}))
    return file


def measure_maps(voc: Path, folder: Path, images: int, sheet: Path | None) -> dict[str, Any]:
    """Run `bench` on VOC's layout, and `benchmarks.photographs` on the same masks."""
    data, names = folder / "voc", ["background", *CLASS_LISTS["voc"].names.values()]
    files = sorted((voc / "masks").glob("*.png"))
    chosen = [file.stem for file in files[:: max(1, len(files) // images)]][:images]
    for kind, target in {"images": "JPEGImages", "masks": "SegmentationClass", "coarse": "coarse"}.items():
        (data / target).mkdir(parents=True)
        for name in chosen:
            picture = next((voc / kind).glob(f"{name}.*"))
            shutil.copyfile(picture, data / target / picture.name)
    lists = data / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("\n".join(chosen))
    (data / "classes.json").write_text(json.dumps(names))
    output = folder / "bench-voc"
    run("bench", "voc", data, "-o", output, "--coarse", data / "coarse", "--alone", "--workers", "1", "--threads", "1")
    report = json.loads((output / "bench.json").read_text())
    if sheet:
        shutil.copyfile(output / "sheet.png", sheet)
    cases = list(read_photographs(data, None, coarse=True, kinds=3))
    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        methods = _methods(refiner)
        theirs = {
            name: float(np.mean([case.iou(methods[other](case)) for case in cases])) for name, other in _NAMED.items()
        }
    rows = {
        name: {"miou": each["protocols"]["voc"]["miou"], **each["masks"], "seconds": each["seconds_per_image"]}
        for name, each in report["methods"].items()
    }
    apart = max(abs(rows[name]["iou"] - value) for name, value in theirs.items())
    return {"images": len(chosen), "methods": rows, "photographs": theirs, "largest_difference": apart}


def to_markdown(values: dict[str, Any]) -> str:
    """Both tables."""
    narratives, maps = values["narratives"], values["voc"]
    recalls = [
        [f"{title}, {protocol}", *(f"{narratives[key][protocol].get(group) or 0:.3f}" for group in _GROUPS)]
        for key, title in {
            "demo": "photo-gs",
            "context": "photo-gs, phrases in captions",
            "shifted": "truth moved by 3 pixels",
            "true": "truth itself",
        }.items()
        for protocol in ("full", "png-bcv", "png-ppmn")
    ]
    counts = ", ".join(f"{narratives['true']['phrases'][group]} {group}" for group in _GROUPS)
    methods = [
        [name, f"{row['miou']:.3f}", f"{row['iou']:.4f}", f"{row['made_worse']:.1%}", f"{row['seconds'] or 0:.2f}",
         f"{maps['photographs'][name]:.4f}" if name in maps["photographs"] else ""]
        for name, row in maps["methods"].items()
    ]  # fmt: skip
    trained, zero_shot = (
        ", ".join(f"{value:.3f} {name}" for name, value in narratives[key].items())
        for key in ("context_on_scenes", "context_zero_shot")
    )
    equal = "equal byte for byte" if narratives["equal_after_the_kill"] else "NOT equal"
    return "\n\n".join(
        [
            "# The papers' benchmarks on small sets",
            "The shipped models hardly know photographs. These figures show how the protocols differ, and that runs "
            "can be killed and compared.",
            "## Panoptic Narrative Grounding: one set, three ways to measure average recall",
            f"{narratives['narratives']} narratives made of COCO photographs; phrases: {counts}. `full` is `eval` "
            "without a protocol.",
            markdown_table(["predictions, protocol", *_GROUPS], recalls),
            "Phrases read in their captions, on the twelve shipped scenes, by the demo model, which was not trained "
            f"so: mean IoU {trained}. Zero-shot, by the demo model that refines: {zero_shot}.",
            f"Two processes were killed after {narratives['predicted_before_the_kill']} narratives and continued. "
            f"Predictions and figures are {equal} to those of an undisturbed run.",
            f"## PASCAL VOC's layout, coarse masks of a real network: {maps['images']} photographs",
            markdown_table(
                ["method", "mIoU, protocol voc", "IoU of masks", "made worse", "s/image", "`benchmarks.photographs`"],
                methods,
            ),
            f"{next(iter(maps['methods'].values()))['count']} masks, each refined for itself. The largest difference "
            f"from `benchmarks.photographs` on the same masks is {maps['largest_difference']:.1e}.",
        ]
    )


if __name__ == "__main__":
    main()
