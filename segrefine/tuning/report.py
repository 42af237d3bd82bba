"""Report of tuning: a page to read, JSON, and a sheet of the held-out masks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from segrefine.batch.worker import Job
from segrefine.runtime.drawing.pictures import BeforeAfter, before_after_sheet
from segrefine.runtime.files.output import save_image, write_whole
from segrefine.runtime.pipeline import Refiner
from segrefine.tuning.cases import LabelledData
from segrefine.tuning.tune import Outcome

REPORT, REPORT_JSON, SHEET = "report.md", "report.json", "before_after.png"
_SHOWN = 8
"""Images on the sheet."""


def write_report(job: Job, truth: Path, outcome: Outcome) -> dict[str, Any]:
    """Write the report, and where the held-out part was judged the sheet, into the output folder.

    Returns:
        What the JSON file holds.

    Raises:
        OutputError: the folder cannot be written to.
    """
    values = describe(job, outcome)
    if outcome.after:
        save_image(job.output / SHEET, before_after_sheet(_draw(job, truth, outcome)))
        values["sheet"] = str(job.output / SHEET)
    write_whole(job.output / REPORT_JSON, (json.dumps(values, indent=2) + "\n").encode())
    write_whole(job.output / REPORT, write_page(values).encode())
    return values


def describe(job: Job, outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON values."""
    return {
        "gained": outcome.gained,
        "reason": outcome.reason,
        "bundle": str(job.setup.bundle),
        "written": outcome.gained,
        "fit_images": list(outcome.fit),
        "held_out_images": list(outcome.held_out),
        "unread": [asdict(each) for each in outcome.unread],
        "changed": {name: list(pair) for name, pair in outcome.changed.items()},
        "before": outcome.before.to_dict() if outcome.before else None,
        "after": outcome.after.to_dict() if outcome.after else None,
        "about": outcome.about,
        "output": str(job.output),
        "sheet": None,
    }


def write_page(values: dict[str, Any]) -> str:
    """The report in Markdown."""
    blocks = ["# Tuning report", _conclude(values)]
    if values["after"]:
        header = ["| held-out part | coarse | before | after |", "|---|---|---|---|"]
        rows = ["| " + " | ".join(row) + " |" for row in list_figures(values)]
        blocks.append("\n".join([*header, *rows]))
    if values["changed"]:
        title = "## Settings" if values["gained"] else "## Settings that were tried, and not written"
        lines = [f"- `{name}`: {old} → {new}" for name, (old, new) in values["changed"].items()]
        blocks += [title, "\n".join(lines)]
    blocks.append("## Data")
    data = f"{len(values['fit_images'])} images to fit to, {len(values['held_out_images'])} held out."
    blocks.append(data)
    if values["unread"]:
        lines = [f"- {each['name']}: {each['message']}" for each in values["unread"]]
        blocks += ["These images could not be used:", "\n".join(lines)]
    if values["about"]:
        facts = {name: value for name, value in values["about"].items() if not isinstance(value, dict)}
        blocks += ["## Provenance", "\n".join(f"- {name}: {value}" for name, value in facts.items())]
    if values["sheet"]:
        blocks.append(f"![held-out masks, before and after refining]({Path(values['sheet']).name})")
    return "\n\n".join(blocks) + "\n"


def _conclude(values: dict[str, Any]) -> str:
    if values["gained"]:
        return f"The new settings and the new guard were written into `{values['bundle']}`."
    return f"Nothing was gained: {values['reason']}. The bundle `{values['bundle']}` is as it was."


def list_figures(values: dict[str, Any]) -> Iterator[list[str]]:
    """Rows of figures of the held-out part: their name, and those of coarse masks, before and after."""
    before, after = values["before"], values["after"]
    yield ["mean IoU", f"{before['coarse']:.3f}", f"{before['iou']:.3f}", f"{after['iou']:.3f}"]
    yield ["made worse by over 0.02", "", f"{before['made_worse']:.1%}", f"{after['made_worse']:.1%}"]
    yield ["seconds for an image", "", f"{before['seconds']:.2f}", f"{after['seconds']:.2f}"]
    yield ["masks", str(before["masks"]), str(before["masks"]), str(after["masks"])]


def _draw(job: Job, truth: Path, outcome: Outcome) -> Sequence[BeforeAfter]:
    """Masks of the first held-out images, coarse and refined with what was found."""
    data = LabelledData(job, truth)
    rows: list[BeforeAfter] = []
    with Refiner.from_setup(replace(job.setup, settings=outcome.settings)) as opened:
        refiner = opened.derive(guard=outcome.guard)
        for name in outcome.held_out[:_SHOWN]:
            case = data.read(name)
            for number, result in enumerate(refiner(case.image, case.masks, seed=job.seed)):
                coarse = result.coarse > 0.5
                rows.append(
                    BeforeAfter(
                        image=case.image, coarse=coarse, refined=result.mask, label=result.label,
                        iou_before=case.iou(number, coarse), iou_after=case.iou(number, result.mask),
                    )
                )  # fmt: skip
    return rows
