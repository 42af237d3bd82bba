"""`segrefine eval`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.cli.console import FAILED, Console, describe_guard, table, with_console
from segrefine.cli.outputs import PictureFile, check_outputs
from segrefine.cli.paths import GivenPath
from segrefine.cli.reading import comparing_options

if TYPE_CHECKING:
    from segrefine.datasets.notation import ReadingOptions
    from segrefine.evaluation.comparison import Comparison, Unread
    from segrefine.evaluation.scores import Score

_SHOWN = 5
_MASKS = GivenPath(exists=True)
_FILE = GivenPath(exists=True, dir_okay=False)


@click.command("eval", short_help="Compare masks with the true ones.")
@click.argument("predicted", type=_MASKS)
@click.argument("truth", type=_MASKS)
@click.option("--coarse", type=_MASKS, help="Masks before refining, to compare before and after.")
@click.option(
    "--sheet", metavar="PNG", type=PictureFile(".png"), help="Write a sheet of the best and the worst cases."
)  # fmt: skip
@click.option(
    "--cases",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Number of best and of worst cases on the sheet.",
)
@click.option(
    "--images", metavar="DIR", type=GivenPath(exists=True, file_okay=False),
    help="Folder of the images, for the sheet.  [default: images beside the masks]",
)  # fmt: skip
@click.option(
    "--labels", metavar="JSON", type=_FILE,
    help="Class of each mask by name, for mIoU.  [default: labels.json beside the masks]",
)  # fmt: skip
@click.option(
    "--groups", metavar="JSON", type=_FILE,
    help="JSON with the groups of each mask by its name, such as [\"singulars\", \"things\"], for average recall.",
)  # fmt: skip
@click.option(
    "--protocol", "wanted", metavar="NAME", default="full", show_default=True,
    help="Judge as a benchmark's official code: png-bcv, png-ppmn, refcoco, grefcoco, big, voc, voc20, context, "
    "context60, coco-object, coco-stuff, ade20k or cityscapes.",
)  # fmt: skip
@comparing_options
@with_console
def evaluate(
    console: Console, predicted: Path, truth: Path, coarse: Path | None, sheet: Path | None, cases: int,
    images: Path | None, labels: Path | None, groups: Path | None, wanted: str, reading: ReadingOptions,
) -> None:  # fmt: skip
    """Compare the masks in PREDICTED with those of the same names in TRUTH.

    Both are folders of masks, data sets that `segrefine batch` reads or wrote, folders that `segrefine samples` wrote,
    or COCO JSONs. --coarse takes the same.

    IoU is the mean over masks. mIoU is the mean over classes of the IoU over all pixels of a class. Boundary IoU looks
    at pixels near the borders. Average recall is that of Panoptic Narrative Grounding: the area under the curve of
    recall against the threshold of IoU. With --coarse, every figure is shown before and after refining, with the share
    of masks that got worse.

    These measures are not comparable with published tables. --protocol measures as the official code of a benchmark
    does.

    A warning names each image whose masks cannot be read. The figures cover the others, and the exit code is 1.
    """
    from segrefine.evaluation.comparison import Comparison, Places, read_entries
    from segrefine.evaluation.protocols.judging import UNCOMPARABLE, Judging
    from segrefine.evaluation.protocols.table import find_protocol
    from segrefine.evaluation.scores import summarise

    protocol = find_protocol(wanted)
    if sheet:
        inputs = {"PREDICTED": predicted, "TRUTH": truth, "the coarse masks": coarse}
        check_outputs({"--sheet": sheet}, {name: path for name, path in inputs.items() if path})
    if protocol:
        reading = protocol.complete(reading)
    places = Places(predicted=predicted, truth=truth, coarse=coarse, labels=labels, images=images, reading=reading)
    comparison = Comparison(places)
    if protocol:
        protocol.check(comparison.truth_notation)
    judging = Judging(protocol) if protocol else None
    members = read_entries(groups, comparison.names, list)
    if sheet:
        comparison.find_images()  # told before the work
    with console.progress("comparing") as tell:
        scores, unread = comparison.score_all(tell, judging.add if judging else None)
    unseen = _write_sheet(sheet, comparison, scores, cases) if sheet else []
    values = summarise(scores, members) | comparison.describe_run() | _describe_data(comparison, scores, unread)
    values["protocol"] = judging.summarise() if judging else UNCOMPARABLE
    values |= {"predicted": str(predicted), "coarse": str(coarse) if coarse else None}
    values["sheet"] = str(sheet) if sheet else None
    for warning in _warnings(comparison, predicted, unread, unseen, values["unusable_masks"]):
        console.warn(warning)
    console.result(values, _describe(values))
    if unread or unseen:
        click.get_current_context().exit(FAILED)


def _describe_data(comparison: Comparison, scores: Sequence[Score], unread: Sequence[Unread]) -> dict[str, Any]:
    """Describe the compared data, and the data that could not be compared, as JSON values."""
    return {
        "truth": str(comparison.truth),
        "notation": comparison.notation,
        "images": len(comparison.names) - len(unread),
        "unread": [asdict(each) for each in unread],
        "lacks": list(comparison.lacks),
        "remarks": list(comparison.remarks),
        "unusable_masks": [f"{name}: {each}" for name, own in comparison.unusable.items() for each in own],
        "masks": [score.to_dict() for score in scores if score.counted],
    }


def _write_sheet(file: Path, comparison: Comparison, scores: Sequence[Score], cases: int) -> Sequence[Unread]:
    from segrefine.errors import MaskError
    from segrefine.evaluation.sheet import draw_cases
    from segrefine.runtime.files.output import save_image

    if not any(score.counted for score in scores):
        raise MaskError("there is no mask to show on a sheet: all images are background", hint="leave out --sheet")
    picture, unseen = draw_cases(comparison, scores, cases)
    save_image(file, picture)
    return unseen


def _warnings(
    comparison: Comparison,
    predicted: Path,
    unread: Sequence[Unread],
    unseen: Sequence[Unread],
    unusable: Sequence[str],
) -> Iterator[str]:
    for each in unread[:_SHOWN]:
        yield f"{each.name} is left out: {each.message}"
    if len(unread) > _SHOWN:
        yield f"{len(unread) - _SHOWN} more are left out; --json lists them all"
    yield from comparison.lacks
    yield from comparison.remarks
    if unusable:
        yield f"{len(unusable)} annotations without a usable mask are not compared, such as {unusable[0]}"
    for each in unseen[:_SHOWN]:
        yield f"{each.name} is not on the sheet: {each.message}"
    for name in comparison.extra[:_SHOWN]:
        yield f"{name} in {predicted} has no true mask in {comparison.truth}, and is left out"
    if len(comparison.extra) > _SHOWN:
        yield f"{len(comparison.extra) - _SHOWN} more have no true mask either"
    if comparison.failed:
        yield f"{len(comparison.failed)} images failed in the batch and are left out, {comparison.failed[0]!r} first"


def _describe(values: Mapping[str, Any]) -> str:
    if values["protocol"]["comparable"]:
        return _describe_protocol(values)
    before = values.get("before")
    sides = [before, values] if before else [values]
    rows = [("IoU, mean over masks", "iou")] if values["count"] else []
    if values["miou"] is not None:
        rows.append((f"mIoU, mean over {len(values['iou_of_classes'])} classes", "miou"))
    rows += [("boundary IoU", "boundary_iou")] if values["count"] else []
    lines = [_row(title, [side[key] for side in sides]) for title, key in rows]
    lines += [
        _row(f"average recall, {group}", [side["average_recall"].get(group) for side in sides])
        for group in values["average_recall"]
    ]
    header = ["before", "after", "change"] if before else [""]
    blocks = [table([f"{values['count']} masks", *header], lines)]
    blocks.append(_facts(values))
    if values["iou_of_classes"]:
        classes = [
            _row(label, [side["iou_of_classes"].get(label) for side in sides], str(values["masks_of_classes"][label]))
            for label in values["iou_of_classes"]
        ]
        blocks.append(table(["class", "masks", *(["before", "after", "change"] if before else ["IoU"])], classes))
    return "\n\n".join(blocks)


def _describe_protocol(values: Mapping[str, Any]) -> str:
    from segrefine.evaluation.protocols.judging import list_figures
    from segrefine.evaluation.protocols.table import PROTOCOLS

    judged = values["protocol"]
    has_before = "before" in judged
    rows = [
        _row(figure.title, [before, after] if has_before else [after])
        for figure, after, before in list_figures(PROTOCOLS[judged["name"]], judged)
    ]
    header = [f"protocol {judged['name']}", *(["before", "after", "change"] if has_before else [""])]
    blocks = [table(header, rows), _facts(values)]
    classes = judged["after"].get("iou_of_classes")
    if classes:
        sides = [judged["before"], judged["after"]] if has_before else [judged["after"]]
        lines = [_row(name, [side["iou_of_classes"].get(name) for side in sides]) for name in classes]
        blocks.append(table(["class", *(["before", "after", "change"] if has_before else ["IoU"])], lines))
    return "\n\n".join(blocks)


def _row(title: str, measures: Sequence[float | None], *between: str) -> list[str]:
    """A line of a table: the measures and, where there are two, their difference."""
    numbers = [f"{value:.3f}" if value is not None else "" for value in measures]
    if len(measures) == 2:
        before, after = measures
        numbers.append(f"{after - before:+.3f}" if before is not None and after is not None else "")
    return [title, *between, *numbers]


def _describe_source(judged: Mapping[str, Any]) -> str:
    if not judged["comparable"]:
        return f"{judged['name']}: not comparable with published tables; --protocol chooses one of theirs"
    return f"{judged['name']}: {judged['source']}"


def _facts(values: Mapping[str, Any]) -> str:
    from segrefine.datasets.opening import NOTATIONS

    described = {notation.title: notation.described for notation in NOTATIONS}
    lines = [f"notation    {described[values['notation']]}", f"protocol    {_describe_source(values['protocol'])}"]
    if unread := len(values["unread"]):
        lines.append(f"images      {values['images']} of {values['images'] + unread}: {unread} could not be read")
    if "made_worse" in values:
        shares = "made worse  {made_worse:.1%} of the masks, {made_much_worse:.1%} by more than 0.02 of IoU"
        lines += [shares.format(**values), f"made better {values['made_better']:.1%}"]
    if guard := describe_guard(values):
        lines.append(f"guard       {guard}")
    if values.get("seconds_per_image"):
        lines.append(f"time        {values['seconds_per_image']:.2f} s for an image, in the batch")
    if values["sheet"]:
        lines.append(f"wrote       {values['sheet']}")
    return "\n".join(lines)
