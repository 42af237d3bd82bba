"""Sweep over the method's settings: a data set is refined and judged for each value of each of them."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from segrefine.batch.journal import Entry, claimed
from segrefine.batch.options import agree_on_options, describe_options
from segrefine.batch.run import run_batch
from segrefine.batch.worker import Job
from segrefine.evaluation.axes import Number, SweepVariant
from segrefine.evaluation.comparison import Comparison, Places
from segrefine.evaluation.scores import Score, summarise

RUNS = "runs"
Tell = Callable[[SweepVariant, Entry, int, int], None]
"""Called with each finished image of a variant, how many are finished over all variants, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Effect of one value of one setting; means over the masks.

    Attributes:
        setting: what was varied.
        value: its value.
        is_default: whether it is that of the model.
        iou: intersection over union.
        miou: the same over the pixels of each class, and then over classes; None where nobody says what masks show.
        boundary_iou: of the inner borders.
        change: in IoU against the default's.
        change_error: standard error of that, mask by mask.
        made_worse: share of the masks that lost more than 0.02 of IoU by refining.
        seconds: for an image.
        failed: images that failed, or whose true masks cannot be read; they do not count.
    """

    setting: str
    value: Number
    is_default: bool
    iou: float
    miou: float | None
    boundary_iou: float
    change: float
    change_error: float
    made_worse: float
    seconds: float | None
    failed: int


def sweep(
    job: Job,
    truth: Path,
    variants: Sequence[SweepVariant],
    *,
    workers: int,
    resume: bool = False,
    tell: Tell | None = None,
) -> tuple[list[Row], dict[str, Any]]:
    """A row for each variant, and the measures of the coarse masks.

    Each variant is a batch of its own, below `job.output`; one that is there already is not done again.

    Args:
        job: the data set, the model, and the folder of the results.
        truth: the true masks; see `Places`.
        variants: what to try; those whose settings are the same are done once.
        workers: processes.
        resume: go on where a sweep before was stopped.
        tell: told of every image.

    Raises:
        MaskError: there is no data set, or a mask without a true one.
        OutputError: the folder cannot be written to, is not empty without `resume`, or is of another sweep.
        SegrefineError: the engines do not open.
    """
    places = Places(predicted=job.coarse_masks, truth=truth, reading=job.reading)
    Comparison(places)  # what does not fit is an error at once
    options = describe_options(job) | {"truth": os.path.realpath(truth)}
    with claimed(job.output, resume=resume):
        agree_on_options(job, options, begun=(job.output / RUNS).exists())
        return _refine_and_judge(job, truth, variants, workers=workers, tell=tell)


def _refine_and_judge(
    job: Job, truth: Path, variants: Sequence[SweepVariant], *, workers: int, tell: Tell | None
) -> tuple[list[Row], dict[str, Any]]:
    distinct: dict[str, SweepVariant] = {}
    for variant in variants:
        distinct.setdefault(_name_of(variant), variant)
    total = len(distinct) * len(job.open_dataset().items)
    scores, failed, seconds = {}, {}, {}
    for place, (name, variant) in enumerate(distinct.items()):
        setup = replace(job.setup, settings=variant.settings)
        run = replace(job, output=job.output / RUNS / name, setup=setup)
        ahead = place * (total // len(distinct))

        def told(entry: Entry, number: int, _: int, variant: SweepVariant = variant, ahead: int = ahead) -> None:
            if tell:
                tell(variant, entry, ahead + number, total)

        run_batch(run, workers=workers, resume=True, tell=told)
        comparison = Comparison(Places(predicted=run.output, truth=truth, coarse=job.coarse_masks, reading=job.reading))
        scores[name], unread = comparison.score_all()
        facts = comparison.describe_run()
        failed[name], seconds[name] = len(comparison.failed) + len(unread), facts.get("seconds_per_image")
    names = [_name_of(variant) for variant in variants]
    default = scores[next(name for name, variant in zip(names, variants, strict=True) if variant.is_default)]
    rows = [
        _judge(variant, scores[name], default, seconds[name], failed[name])
        for name, variant in zip(names, variants, strict=True)
    ]
    before: dict[str, Any] = summarise(default)["before"]
    return rows, before


def _name_of(variant: SweepVariant) -> str:
    """The folder of a variant's results."""
    return "default" if variant.is_default else f"{variant.axis}={variant.value}"


def _judge(
    variant: SweepVariant, scores: Sequence[Score], default: Sequence[Score], seconds: float | None, failed: int
) -> Row:
    values = summarise(scores)
    own = {(score.name, score.key): score.after.iou for score in default if score.counted}
    pairs = ((own.get((score.name, score.key)), score.after.iou) for score in scores if score.counted)
    changes = [after - before for before, after in pairs if before is not None]
    return Row(
        setting=variant.axis,
        value=variant.value,
        is_default=variant.is_default,
        iou=values["iou"],
        miou=values["miou"],
        boundary_iou=values["boundary_iou"],
        change=fmean(changes) if changes else 0.0,
        change_error=stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else 0.0,
        made_worse=values["made_much_worse"],
        seconds=seconds,
        failed=failed,
    )


def to_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The header and the lines of a table for people."""
    header = ["setting", "value", "IoU", "mIoU", "boundary IoU", "change", "±", "made worse", "s/image"]
    lines = [
        [
            row.setting, f"{row.value:g}{' *' * row.is_default}", f"{row.iou:.3f}", _number(row.miou),
            f"{row.boundary_iou:.3f}", f"{row.change:+.3f}", f"{row.change_error:.3f}", f"{row.made_worse:.1%}",
            _number(row.seconds),
        ]
        for row in rows
    ]  # fmt: skip
    return header, lines


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV, with all digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_markdown(rows: Sequence[Row]) -> str:
    """The rows as a table in markdown."""
    header, lines = to_cells(rows)
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "".join("| " + " | ".join(line) + " |\n" for line in (header, rule, *lines))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
