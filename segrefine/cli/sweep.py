"""`segrefine sweep`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.cli.console import FAILED, Console, table, with_console
from segrefine.cli.options import (
    Model,
    SettingsChoice,
    crop_option,
    guard_option,
    model_options,
    settings_options,
)
from segrefine.cli.outputs import check_output_folder
from segrefine.cli.paths import GivenPath
from segrefine.cli.reading import reading_options

if TYPE_CHECKING:
    from segrefine.datasets.notation import ReadingOptions
    from segrefine.evaluation.sweep import Row

_DATA = GivenPath(exists=True)


class Vary(click.ParamType):  # type: ignore[type-arg]  # click takes no type there before 8.4
    """A name, and maybe values: `NAME` or `NAME=1,2,3`."""

    name = "vary"

    def convert(
        self, value: str | tuple[str, tuple[float, ...]], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[float, ...]]:
        """The name and its values; fails as a usage error."""
        if isinstance(value, tuple):
            return value
        name, equals, numbers = value.partition("=")
        try:
            parts = [json.loads(part) for part in numbers.split(",")] if equals else []
        except ValueError:
            parts = [None]
        if not name or not all(type(part) in (int, float) for part in parts):
            self.fail(f"expected NAME or NAME=1,2,3, got {value!r}", param, ctx)
        return name, tuple(parts)


@click.command(short_help="Refine a data set with other settings, and compare.")
@click.argument("source", metavar="DIR|JSON", type=_DATA)
@click.argument("truth", type=_DATA)
@click.argument("output", metavar="OUTPUT", type=GivenPath(file_okay=False))
@click.option(
    "--vary", "wanted", metavar="NAME[=V1,V2,…]", type=Vary(), multiple=True,
    help="Settings to vary. Can be repeated.  [default: injection, mixing, noise, rounds, confusion]",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes.  [default: one for each core]")
@click.option("--resume", is_flag=True, help="Continue a sweep with the same options.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed of the noise.")
@guard_option
@crop_option
@settings_options
@reading_options
@model_options
@with_console
def sweep(
    console: Console, source: Path, truth: Path, output: Path, wanted: Sequence[tuple[str, tuple[float, ...]]],
    workers: int | None, resume: bool, seed: int, guard: bool, crop: bool, choice: SettingsChoice,
    reading: ReadingOptions, model: Model,
) -> None:  # fmt: skip
    """Change one setting at a time, refine a data set, and compare with the true masks.

    DIR or JSON is a data set that `segrefine batch` reads. TRUTH holds its true masks, as `segrefine eval` reads them.
    The NAME of --vary is injection, mixing, noise, rounds or confusion, or any numeric setting of the model, such as
    text_weight.

    OUTPUT gets sweep.json, sweep.csv, sweep.md, sweep.png, and the masks of every run. Images that fail, or whose true
    masks cannot be read, are left out of the figures and counted. The exit code is then 1.
    """
    from segrefine.batch.worker import Job
    from segrefine.engines import usable_cores
    from segrefine.evaluation.axes import AXES, plan_variants
    from segrefine.evaluation.sweep import sweep as run_sweep

    check_output_folder(output, {"the data set": source, "the truth": truth})
    workers = workers or usable_cores()
    with model.open(choice) as refiner:
        variants = plan_variants(refiner.settings, wanted or [(name, ()) for name in AXES])
        for variant in variants:
            refiner.check_settings(variant.settings)  # what does not fit is told at once
    job = Job(
        source=source.absolute(), images=None, output=output.absolute(), setup=model.setup(choice), seed=seed,
        guard=guard, crop=crop, reading=reading,
    ).share_cores(workers)  # fmt: skip
    with console.resumable(), console.progress("sweep", long=True) as tell:
        rows, before = run_sweep(
            job, truth.absolute(), variants, workers=workers, resume=resume,
            tell=lambda variant, _, done, total: tell(f"{variant.axis} = {variant.value:g}", done / total),
        )  # fmt: skip
    values = {"rows": [asdict(row) for row in rows], "before": before, "output": str(output), "model": model.to_dict()}
    _write(output, rows, values)
    incomplete = [row for row in rows if row.failed]
    for row in incomplete:
        where = f"{output / 'runs'} says why, or `segrefine eval`"
        console.warn(f"{row.setting} = {row.value:g}: {row.failed} of the images failed; {where}")
    console.result(values, _describe(rows, values))
    if incomplete:
        click.get_current_context().exit(FAILED)


def _write(output: Path, rows: Sequence[Row], values: dict[str, Any]) -> None:
    from segrefine.evaluation.sweep import to_csv, to_markdown
    from segrefine.runtime.drawing.plots import Chart, draw_charts
    from segrefine.runtime.files.output import save_image, write_whole

    write_whole(output / "sweep.json", (json.dumps(values, indent=2) + "\n").encode())
    write_whole(output / "sweep.csv", to_csv(values["rows"]).encode())
    write_whole(output / "sweep.md", to_markdown(rows).encode())
    charts = []
    for name, group in groupby(rows, key=lambda row: row.setting):
        of_axis = list(group)
        charts.append(
            Chart(
                title=f"{name}: change in IoU",
                places=[f"{row.value:g}" for row in of_axis],
                values=[row.change for row in of_axis],
                errors=[row.change_error for row in of_axis],
                marked=next((number for number, row in enumerate(of_axis) if row.is_default), None),
                level=0.0,
            )
        )
    save_image(output / "sweep.png", draw_charts(charts))


def _describe(rows: Sequence[Row], values: dict[str, Any]) -> str:
    from segrefine.evaluation.sweep import to_cells

    before = values["before"]
    notes = (
        f"{before['count']} masks, IoU {before['iou']:.3f} before. * is the model's own value; change is against it,",
        "and ± its standard error over the masks. Made worse: by more than 0.02 of IoU.",
        f"wrote {Path(values['output']) / 'sweep.png'}, and the table as .json, .csv and .md",
    )
    return "\n".join((table(*to_cells(rows)), "", *notes))
