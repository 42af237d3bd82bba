"""Tuning: how much of a gain that spoilt settings lost comes back, on images that nothing was fitted to.

python -m benchmarks.tune    40 validation scenes of emoji; writes benchmarks/results/tune.*

A copy of the demo bundle gets spoilt settings and loses its guard. `segrefine tune` fits it to one spoilt mask of each
scene. The reference is the demo bundle as it ships.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from benchmarks.evaluate import WORSE, CorruptedCase
from benchmarks.quality import VALIDATION_SEED, cases_of
from benchmarks.report import markdown_table, write_result
from segrefine.assets import demo_bundle
from segrefine.batch.worker import Job
from segrefine.engines import EngineOptions
from segrefine.runtime.engine_set import PipelineSetup
from segrefine.runtime.files.output import save_image, save_mask
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
@click.option("--scenes", default=40, show_default=True, help="Scenes; each gives one mask.")
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
def main(scenes: int, threads: int, cache: Path) -> None:
    """Measure how much of the gain tuning regains."""
    sources = load_sources(cache, held_out=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = VALIDATION_SEED + FIRST
        numbers = range(first, first + scenes)
        cases = [cases_of(compose_scene(np.random.default_rng(number), sources), number) for number in numbers]
        _write([several[place % len(several)] for place, several in enumerate(cases)], folder / "data")
        job = Job(
            source=folder / "data", images=None, output=folder / "out",
            setup=PipelineSetup(bundle=_spoil(folder / "bundle"), engines=EngineOptions(threads=threads)),
        )  # fmt: skip
        outcome = tune(job, folder / "data" / "truth", tell=_tell)
        shipped = _measure_shipped(LabelledData(job, folder / "data" / "truth"), outcome.held_out, threads)
    assert outcome.before and outcome.after
    coarse = outcome.before.coarse
    lost = shipped[0] - outcome.before.iou
    regained = (outcome.after.iou - outcome.before.iou) / lost if lost > 0 else float("nan")
    rows = [
        ["coarse masks", f"{coarse:.3f}", "", ""],
        ["spoilt settings, free guard", *_row(coarse, outcome.before.iou, outcome.before.made_worse)],
        ["tuned", *_row(coarse, outcome.after.iou, outcome.after.made_worse)],
        ["demo bundle as it ships", *_row(coarse, *shipped)],
    ]
    bars = [
        ["of the lost gain regained", ">= 90 %", f"{regained:.0%}", "yes" if regained >= 0.9 else "no"],
        ["written only where held-out gains", "always", "written" if outcome.gained else "not written", "yes"],
    ]
    changed = ", ".join(f"`{key}` {old} → {new}" for key, (old, new) in outcome.changed.items())
    markdown = "\n\n".join(
        [
            "# Tuning",
            f"{len(outcome.fit)} scenes to fit to, {len(outcome.held_out)} held out, one spoilt mask each. Figures are "
            f"of the held-out part, with the guard. Settings were spoilt on purpose: {json.dumps(SPOILT)}.",
            markdown_table(["held-out part", "mean IoU", "gain", "made worse"], rows),
            f"Found: {changed or 'nothing'}. {outcome.reason}".strip(),
            "## Bars",
            markdown_table(["figure", "bar", "measured", "met"], bars),
        ]
    )
    click.echo(markdown)
    data = {"spoilt": SPOILT, "changed": outcome.changed, "before": outcome.before.to_dict(), "regained": regained}
    data |= {"after": outcome.after.to_dict(), "shipped": {"iou": shipped[0], "made_worse": shipped[1]}, "bars": bars}
    write_result("tune", data, markdown)


def _tell(stage: str, share: float) -> None:
    if not share:
        click.echo(stage, err=True)


def _row(coarse: float, iou: float, worse: float) -> tuple[str, str, str]:
    return f"{iou:.3f}", f"{iou - coarse:+.3f}", f"{worse:.1%}"


def _write(cases: list[CorruptedCase], folder: Path) -> None:
    """Write cases as a data set of one mask for each image."""
    labels = {}
    for kind in ("images", "masks", "truth"):
        (folder / kind).mkdir(parents=True)
    for case in cases:
        name = f"{case.scene}"
        labels[name] = case.label
        save_image(folder / "images" / f"{name}.png", case.image)
        save_mask(folder / "masks" / f"{name}.png", case.coarse > 0.5)
        save_mask(folder / "truth" / f"{name}.png", case.truth)
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")


def _spoil(folder: Path) -> Path:
    """A copy of the demo bundle with spoilt settings and no guard."""
    shutil.copytree(demo_bundle(), folder)
    file = folder / "segrefine.json"
    raw = json.loads(file.read_text(encoding="utf-8"))
    raw["settings"] |= SPOILT
    if raw["files"].pop(GUARD, None):
        (folder / GUARD).unlink()
    file.write_text(json.dumps(raw), encoding="utf-8")
    return folder


def _measure_shipped(data: LabelledData, names: Sequence[str], threads: int) -> tuple[float, float]:
    """Mean IoU of the demo bundle as it ships, and the share of masks that it makes worse."""
    before, after = [], []
    with Refiner.from_bundle(demo_bundle(), threads=threads) as refiner:
        for name in names:
            case = data.read(name)
            for number, result in enumerate(refiner(case.image, case.masks)):
                before.append(case.iou(number, result.coarse > 0.5))
                after.append(case.iou(number, result.mask))
    lost = np.array(before) - np.array(after)
    return float(np.mean(after)), float((lost > WORSE).mean())


if __name__ == "__main__":
    main()
