"""`segrefine tune`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.cli.console import FAILED, Console, table, with_console
from segrefine.cli.options import Model, model_options
from segrefine.cli.outputs import check_output_folder
from segrefine.cli.paths import GivenPath
from segrefine.cli.reading import tuning_options

if TYPE_CHECKING:
    from segrefine.datasets.notation import ReadingOptions

_DATA = GivenPath(exists=True)
_SHOWN = 5


@click.command(short_help="Fit a bundle's settings and guard to labelled images.")
@click.argument("data", metavar="DATA", type=_DATA)
@click.argument("truth", metavar="TRUTH", type=_DATA)
@click.option(
    "-o", "--output", metavar="DIR", type=GivenPath(file_okay=False), default="tuned",
    show_default=True, help="Folder for the report and for intermediate results.",
)  # fmt: skip
@click.option(
    "--images", metavar="DIR", type=GivenPath(exists=True, file_okay=False),
    help="Folder of a COCO JSON's images.  [default: images beside it, or its own folder]",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue a run with the same options that was stopped.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True,
    help="Random seed of the noise and of the choice of held-out images.",
)  # fmt: skip
@tuning_options
@model_options
@with_console
def tune(
    console: Console, data: Path, truth: Path, output: Path, images: Path | None, resume: bool, seed: int,
    reading: ReadingOptions, model: Model,
) -> None:  # fmt: skip
    """Fit the settings and the guard of a bundle to images with true masks.

    DATA is a data set that `segrefine batch` reads. TRUTH holds the true masks, as `segrefine eval` reads them.
    Tuning needs at least ten images; a few dozen are better. --bundle names the bundle, which must be your own.

    60 % of the images are used for fitting. The others are held out to test the result. The bundle changes only if the
    held-out masks improve. The folder of --output gets report.md, report.json and a sheet of masks.
    """
    from segrefine.batch.worker import Job
    from segrefine.tuning.report import write_report
    from segrefine.tuning.tune import tune as run_tune

    if model.bundle is None:
        raise click.UsageError("--bundle is needed: it names the bundle whose settings and guard are fitted")
    if images and not data.is_file():
        raise click.UsageError("--images is for a COCO JSON; a folder has its own images/")
    check_output_folder(
        output, {"DATA": data, "TRUTH": truth, "the folder of images": images, "--bundle": model.bundle}
    )
    job = Job(
        source=data.absolute(), images=images and images.absolute(), output=output.absolute(),
        setup=model.setup(), seed=seed, reading=reading,
    )  # fmt: skip
    with console.resumable(), console.progress("tune", long=True) as tell:
        outcome = run_tune(job, truth.absolute(), resume=resume, tell=tell)
        values = write_report(job, truth.absolute(), outcome)
    for each in outcome.unread[:_SHOWN]:
        console.warn(f"{each.name} is left out: {each.message}")
    if (more := len(outcome.unread) - _SHOWN) > 0:
        console.warn(f"{more} more images are left out; {output / 'report.md'} lists them")
    console.result(values, _describe(values))
    if outcome.unread:
        click.get_current_context().exit(FAILED)


def _describe(values: Mapping[str, Any]) -> str:
    from segrefine.tuning.report import list_figures

    blocks = []
    if values["after"]:
        blocks.append(table(["held-out part", "coarse", "before", "after"], list(list_figures(dict(values)))))
    parts = f"{len(values['fit_images'])} fitted to, {len(values['held_out_images'])} held out"
    lines = [f"images    {parts}"]
    if values["gained"]:
        changed = ", ".join(f"{name} {old} → {new}" for name, (old, new) in values["changed"].items())
        lines += [f"settings  {changed or 'as they were'}", f"wrote     settings and guard into {values['bundle']}"]
    else:
        lines += [f"result    nothing was gained: {values['reason']}", f"bundle    {values['bundle']} is as it was"]
    lines.append(f"report    {Path(values['output']) / 'report.md'}")
    return "\n".join([*(block + "\n" for block in blocks), *lines])
