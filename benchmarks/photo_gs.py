"""Quality of a label diffusion model on words, on photographs that training did not see.

    python -m benchmarks.photo_gs CHECKPOINT DATA

CHECKPOINT is what `segrefine train` wrote. DATA is a folder of label maps with `classes.json`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.report import markdown_table, write_result
from segrefine.settings import GsSettings
from segrefine.train.model import LabelModel, open_model
from segrefine.train.options import TrainOptions
from segrefine.train.prepared import Prepared, prepare
from segrefine.train.scenes import TrainingScene, union
from segrefine.train.sources import SourceSpec
from segrefine.train.validation import sample_masks, summarise, validate

CLASSES = ("cat", "dog", "horse", "sheep", "cow", "person", "bird")
STEPS, SAMPLES = (1, 4, 8), 8
BINS = 256
"""Values of the spread that the area under the curve tells apart."""


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--limit", default=1000, show_default=True, help="Largest number of images.")
@click.option("--without", multiple=True, metavar="NAME", help="Image whose mask is of another photograph; repeatable.")
def main(checkpoint: Path, data: Path, limit: int, without: tuple[str, ...]) -> None:
    """Judge CHECKPOINT on the photographs of DATA."""
    with tempfile.TemporaryDirectory() as scratch:
        options = TrainOptions(model=str(checkpoint), new_words=False)
        model = open_model(checkpoint, options, [], Path(scratch) / "words")
        for part in model.parts.values():
            part.eval()
        prepared = prepare(SourceSpec(place=data), Path(scratch), model.side, lambda line, share: None)
        rows = range(min(limit, len(prepared.scenes)))
        scenes = {str(prepared.scenes[row]["name"]): seven_classes(prepared, row) for row in rows}
    if missing := set(without) - scenes.keys():
        raise click.BadParameter(f"the data has no image {sorted(missing)[0]}")
    sound = [scene for name, scene in scenes.items() if name not in without]
    by_steps = {}
    for steps in tqdm(STEPS, desc="steps"):
        settings = GsSettings(samples=1, steps=steps)
        by_steps[steps] = summarise(validate(model, sound, 0, 1, CLASSES, settings)).to_dict()
    whole = summarise(validate(model, list(scenes.values()), 0, 1, CLASSES)).to_dict() if without else by_steps[1]
    result = {
        "data": data.name, "steps": by_steps, "spread_auroc": spread_auroc(model, sound), "without": list(without),
        "with_all": {"miou": whole["miou"], "images": whole["images"]},
    }  # fmt: skip
    write_result("photo_gs", result, describe(result))
    print(describe(result))


def seven_classes(prepared: Prepared, row: int) -> TrainingScene:
    """A scene with the regions of the seven classes alone; all others count as background."""
    scene = prepared.read(row)
    regions = tuple(region for region in scene.regions if region.label in CLASSES)
    return replace(scene, regions=regions, known=frozenset(CLASSES))


def spread_auroc(model: LabelModel, scenes: Sequence[TrainingScene]) -> float:
    """Area under the ROC of the samples' spread as a sign of wrong pixels, over all pixels of all present classes."""
    right, wrong = np.zeros(BINS), np.zeros(BINS)
    for number, scene in enumerate(tqdm(scenes, desc="spread")):
        for label in sorted({str(region.label) for region in scene.regions}):
            true = union((region.mask for region in scene.regions if region.label == label), scene.size)
            settings = GsSettings(samples=SAMPLES, steps=1)
            samples = sample_masks(model, scene.image, [f"the {label}"], number, settings)[0]
            bins = np.minimum(samples.std(0) * 2 * BINS, BINS - 1).astype(np.int64)  # the spread is at most 0.5
            is_wrong = (samples.mean(0) > 0.5) != true
            right += np.bincount(bins[~is_wrong & ~scene.ignored], minlength=BINS)
            wrong += np.bincount(bins[is_wrong & ~scene.ignored], minlength=BINS)
    return area_under_curve(right, wrong)


def area_under_curve(right: NDArray[np.float64], wrong: NDArray[np.float64]) -> float:
    """Chance that a wrong pixel has a larger spread than a right one; equal ones count half.

    Args:
        right: how many right pixels have each spread, ascending.
        wrong: how many wrong ones.
    """
    below = np.cumsum(right) - right
    return float((wrong * (below + 0.5 * right)).sum() / max(1.0, wrong.sum() * right.sum()))


def describe(result: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    one, longer = result["steps"][1], [(steps, result["steps"][steps]) for steps in STEPS[1:]]
    rows = [["mean IoU of the named class", ">= .60", f"{one['miou']:.3f}"]]
    rows += [[f"the same with {steps} steps, against 1", ">= -.005", f"{each['miou'] - one['miou']:+.3f}"]
             for steps, each in longer]  # fmt: skip
    kept = "no pair" if one["wrong_word"] is None else f"{1 - one['wrong_word']:.0%} of {one['pairs']} pairs"
    rows.append(["a wrong word covers at most half of what the right one covers", ">= 85 %", kept])
    rows.append(["share of the image that the words of absent classes cover", "", f"{one['absent']:.3f}"])
    rows.append([f"spread of {SAMPLES} samples as a sign of error: area under the ROC", ">= .85",
                 f"{result['spread_auroc']:.3f}"])  # fmt: skip
    classes = [[label, f"{value:.3f}"] for label, value in one["iou_of_classes"].items()]
    left_out = "" if not result["without"] else (
        f" {len(result['without'])} more photographs of this copy of the data are left out: their masks are of other "
        f"photographs ({', '.join(result['without'])}). With them the mean IoU is {result['with_all']['miou']:.3f}."
    )  # fmt: skip
    return "\n\n".join([
        "# Label diffusion on photographs",
        f"Written by `python -m benchmarks.photo_gs`: {one['images']} photographs of `{result['data']}`." + left_out,
        markdown_table(["promise", "bar", "measured"], rows),
        markdown_table(["class", "mean IoU"], classes),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
