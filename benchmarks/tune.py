"""Tuning: how much of a gain that spoilt settings lost comes back, on images that nothing was fitted to.

    python -m benchmarks.tune                        40 validation scenes of emoji; writes benchmarks/results/tune.*
    python -m benchmarks.tune --photographs DATA     40 photographs of a data set in VOC's layout; tune_photographs.*

A copy of the demo bundle, or of `photo`, gets spoilt settings and loses its guard. `segrefine tune` fits it to one
spoilt mask of each image. The reference is the bundle as it ships.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
from PIL import Image

from benchmarks.evaluate import WORSE
from benchmarks.photographs import VOID, Photograph, read_photographs
from benchmarks.quality import VALIDATION_SEED, cases_of
from benchmarks.report import markdown_table, write_result
from segrefine.assets import PHOTO_LABELS, demo_bundle, photo_bundle
from segrefine.batch.worker import Job
from segrefine.engines import EngineOptions
from segrefine.runtime.engine_set import PipelineSetup
from segrefine.runtime.files.output import save_image
from segrefine.runtime.guard import GUARD
from segrefine.runtime.pipeline import Refiner
from segrefine.tuning.cases import LabelledData
from segrefine.tuning.tune import tune
from training.demo.scenes import compose_scene
from training.demo.sources import load_sources

FIRST = 200
"""The guard of the demo bundle was fitted to validation scenes before this one."""
SPOILT = {"text_weight": 12.0, "prior_weight": 0.05}


@click.command()
@click.option("--images", default=40, show_default=True, help="Images; each gives one mask.")
@click.option(
    "--photographs", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Tune `photo` on these."
)
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
def main(images: int, photographs: Path | None, threads: int, cache: Path) -> None:
    """Measure how much of the gain tuning regains."""
    bundle = photo_bundle() if photographs else demo_bundle()
    cases = _read_photographs(photographs, images) if photographs else _compose_scenes(cache, images)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(cases, folder / "data")
        job = Job(
            source=folder / "data", images=None, output=folder / "out",
            setup=PipelineSetup(bundle=_spoil(bundle, folder / "bundle"), engines=EngineOptions(threads=threads)),
        )  # fmt: skip
        outcome = tune(job, folder / "truth", tell=_tell)
        shipped = _measure_shipped(bundle, LabelledData(job, folder / "truth"), outcome.held_out, threads)
    assert outcome.before and outcome.after
    coarse = outcome.before.coarse
    lost = shipped[0] - outcome.before.iou
    regained = (outcome.after.iou - outcome.before.iou) / lost if lost > 0 else float("nan")
    model = "photo" if photographs else "demo"
    rows = [
        ["coarse masks", f"{coarse:.3f}", "", ""],
        ["spoilt settings, free guard", *_row(coarse, outcome.before.iou, outcome.before.made_worse)],
        ["tuned", *_row(coarse, outcome.after.iou, outcome.after.made_worse)],
        [f"bundle `{model}` as it ships", *_row(coarse, *shipped)],
    ]
    bars = [
        ["of the lost gain regained", ">= 90 %", f"{regained:.0%}", "yes" if regained >= 0.9 else "no"],
        ["written only where held-out gains", "always", "written" if outcome.gained else "not written", "yes"],
    ]
    changed = ", ".join(f"`{key}` {old} → {new}" for key, (old, new) in outcome.changed.items())
    markdown = "\n\n".join(
        [
            "# Tuning",
            f"Model: {model}. {len(outcome.fit)} images to fit to, {len(outcome.held_out)} held out, one spoilt mask "
            "each. Figures are of the held-out part, with the guard. Settings were spoilt on purpose: "
            f"{json.dumps(SPOILT)}.",
            markdown_table(["held-out part", "mean IoU", "gain", "made worse"], rows),
            f"Found: {changed or 'nothing'}. {outcome.reason}".strip(),
            "## Bars",
            markdown_table(["figure", "bar", "measured", "met"], bars),
        ]
    )
    click.echo(markdown)
    data = {"spoilt": SPOILT, "changed": outcome.changed, "before": outcome.before.to_dict(), "regained": regained}
    data |= {"after": outcome.after.to_dict(), "shipped": {"iou": shipped[0], "made_worse": shipped[1]}, "bars": bars}
    write_result("tune_photographs" if photographs else "tune", data, markdown)


def _tell(stage: str, share: float) -> None:
    if not share:
        click.echo(stage, err=True)


def _row(coarse: float, iou: float, worse: float) -> tuple[str, str, str]:
    return f"{iou:.3f}", f"{iou - coarse:+.3f}", f"{worse:.1%}"


def _compose_scenes(cache: Path, count: int) -> Iterator[Photograph]:
    """One spoilt mask of each of the first emoji scenes that nothing was fitted to."""
    sources = load_sources(cache, held_out=True)
    for place, number in enumerate(range(VALIDATION_SEED + FIRST, VALIDATION_SEED + FIRST + count)):
        several = cases_of(compose_scene(np.random.default_rng(number), sources), number)
        case = several[place % len(several)]
        yield Photograph(
            number=number, image=case.image, coarse=case.coarse, truth=case.truth, void=np.zeros_like(case.truth),
            label=case.label, kind=case.kind,
        )  # fmt: skip


def _read_photographs(data: Path, count: int) -> Iterator[Photograph]:
    """One spoilt mask of each of the first photographs that show a class which the model knows."""
    seen: set[int] = set()
    for case in read_photographs(data, None, coarse=False, kinds=3):
        if case.label in PHOTO_LABELS and case.number not in seen and len(seen) < count:
            seen.add(case.number)
            yield case


def _write(cases: Iterator[Photograph], folder: Path) -> None:
    """Write cases as a data set of one mask for each image, with the true masks beside it."""
    listed = list(cases)
    names = ["background", *sorted({case.label for case in listed})]
    truth = folder.parent / "truth"
    for each in (folder / "images", folder / "masks", truth):
        each.mkdir(parents=True)
    (folder / "classes.json").write_text(json.dumps(names), encoding="utf-8")
    for case in listed:
        name, index = f"{case.number:06}", names.index(case.label)
        save_image(folder / "images" / f"{name}.png", case.image)
        coarse, true = np.where(case.coarse > 0.5, index, 0), np.where(case.truth, index, 0)
        for file, numbers in ((folder / "masks", coarse), (truth, np.where(case.void, VOID, true))):
            Image.fromarray(numbers.astype(np.uint8)).save(file / f"{name}.png")


def _spoil(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle with spoilt settings and no guard."""
    shutil.copytree(bundle, folder)
    file = folder / "segrefine.json"
    raw = json.loads(file.read_text(encoding="utf-8"))
    raw["settings"] |= SPOILT
    if raw["files"].pop(GUARD, None):
        (folder / GUARD).unlink()
    file.write_text(json.dumps(raw), encoding="utf-8")
    return folder


def _measure_shipped(bundle: Path, data: LabelledData, names: Sequence[str], threads: int) -> tuple[float, float]:
    """Mean IoU of a bundle as it ships, and the share of masks that it makes worse."""
    before, after = [], []
    with Refiner.from_bundle(bundle, threads=threads) as refiner:
        for name in names:
            case = data.read(name)
            for number, result in enumerate(refiner(case.image, case.masks)):
                before.append(case.iou(number, result.coarse > 0.5))
                after.append(case.iou(number, result.mask))
    lost = np.array(before) - np.array(after)
    return float(np.mean(after)), float((lost > WORSE).mean())


if __name__ == "__main__":
    main()
