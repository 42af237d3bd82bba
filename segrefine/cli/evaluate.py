"""`segrefine eval`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from segrefine.cli.console import Console, table, with_console
from segrefine.errors import MaskError

_SUFFIXES = (".png", ".npy")


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well one mask agrees with the true one; areas in pixels.

    Attributes:
        iou: intersection over union.
        boundary_iou: of the inner borders.
        intersection: pixels that both have.
        union: pixels that either has.
    """

    iou: float
    boundary_iou: float
    intersection: int
    union: int


@click.command("eval")
@click.argument("predicted", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("truth", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--labels", metavar="JSON", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Class of each mask by name, for mIoU.  [default: labels.json in or beside TRUTH]",
)  # fmt: skip
@click.option(
    "--groups", metavar="JSON", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Groups of each mask by name, such as [\"singulars\", \"things\"], for average recall.",
)  # fmt: skip
@with_console
def evaluate(console: Console, predicted: Path, truth: Path, labels: Path | None, groups: Path | None) -> None:
    """Compare the masks in the folder PREDICTED with those of the same names in TRUTH.

    TRUTH may also be a folder that `segrefine samples` wrote. Measures: IoU, the mean over masks; mIoU, the mean over
    classes, each over the pixels of all its masks; boundary IoU; average recall, the area under recall against the IoU
    from which an object counts as found, as in Panoptic Narrative Grounding.
    """
    folder = truth / "truth" if (truth / "truth").is_dir() else truth
    places = (truth / "labels.json", truth.parent / "labels.json")
    labels = labels or next((place for place in places if place.is_file()), None)
    given = _masks_in(predicted)
    files = _pairs(predicted, given, folder)
    scores = {}
    with console.progress("comparing") as tell:
        for number, (name, pair) in enumerate(files.items()):
            tell(name, number / len(files))
            scores[name] = _score(*pair)
    for file in (path for name, path in given.items() if name not in files):
        console.warn(f"{file} has no true mask in {folder}, and is left out")
    values = summarise(scores, read_entries(labels, files, str), read_entries(groups, files, list))
    values |= {"predicted": str(predicted), "truth": str(folder), "masks": _entries(scores)}
    console.result(values, _describe(values))


def summarise(
    scores: Mapping[str, Score], classes: Mapping[str, str] | None, groups: Mapping[str, list[str]] | None
) -> dict[str, Any]:
    """The measures over all masks.

    Args:
        scores: of each mask, by name.
        classes: class of each mask; None leaves out mIoU.
        groups: groups of each mask; None leaves out their average recall.
    """
    from statistics import fmean

    from segrefine.runtime.metrics import average_recall

    members: dict[str, list[float]] = {"overall": []}
    for name, score in scores.items():
        for group in {"overall", *(groups[name] if groups else ())}:
            members.setdefault(group, []).append(score.iou)
    per_class: dict[str, list[int]] = {}
    for name, label in ((name, classes[name]) for name in scores) if classes else ():
        sums = per_class.setdefault(label, [0, 0])
        sums[0], sums[1] = sums[0] + scores[name].intersection, sums[1] + scores[name].union
    shares = {label: sums[0] / sums[1] if sums[1] else 1.0 for label, sums in sorted(per_class.items())}
    return {
        "count": len(scores),
        "iou": fmean(score.iou for score in scores.values()),
        "miou": fmean(shares.values()) if shares else None,
        "boundary_iou": fmean(score.boundary_iou for score in scores.values()),
        "average_recall": {group: average_recall(ious) for group, ious in members.items()},
        "iou_of_classes": shares,
    }


def _pairs(predicted: Path, given: Mapping[str, Path], truth: Path) -> dict[str, tuple[Path, Path]]:
    """The files of each mask by name.

    Raises:
        MaskError: there is no true mask, or one has no partner.
    """
    wanted = _masks_in(truth)
    if not wanted:
        raise MaskError(f"there is no mask in {truth}", hint="expected .png or .npy files")
    if missing := sorted(wanted.keys() - given.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        message = f"{predicted} has no mask {missing[0]!r}{more}, which {truth} has"
        raise MaskError(message, hint="masks are matched by name, whatever their suffix")
    return {name: (given[name], path) for name, path in wanted.items()}


def _masks_in(folder: Path) -> dict[str, Path]:
    """The masks in a folder by name.

    Raises:
        MaskError: two have one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        if other := found.get(path.stem):
            raise MaskError(f"{other} and {path.name} have one name", hint="keep one file for each mask")
        found[path.stem] = path
    return found


def _score(predicted: Path, truth: Path) -> Score:
    import numpy as np

    from segrefine.runtime.mask import read_mask
    from segrefine.runtime.metrics import boundary_iou, iou

    a, b = (read_mask(path) > 0.5 for path in (predicted, truth))
    if a.shape != b.shape:
        sizes = " and ".join(f"{each.shape[1]}×{each.shape[0]}" for each in (a, b))
        raise MaskError(f"{predicted} and {truth} are {sizes} pixels", hint="masks must be of the same size")
    return Score(
        iou=iou(a, b),
        boundary_iou=boundary_iou(a, b),
        intersection=int(np.count_nonzero(a & b)),
        union=int(np.count_nonzero(a | b)),
    )


def read_entries(file: Path | None, names: Mapping[str, Any], kind: type) -> dict[str, Any] | None:
    """What a JSON file says of each mask; None without a file.

    Args:
        file: the file.
        names: the masks.
        kind: of an entry: `str`, or `list` for a list of texts.

    Raises:
        MaskError: it is no JSON object, says nothing of one of the masks, or something of another kind.
    """
    if file is None:
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MaskError(f"cannot read {file} as JSON: {error}") from error
    hint = "it holds an entry for each mask, by its name without suffix"
    if not isinstance(content, dict):
        raise MaskError(f"{file} is no JSON object", hint=hint)
    if missing := sorted(names.keys() - content.keys()):
        raise MaskError(f"{file} says nothing of {missing[0]!r}", hint=hint)
    expected = "a text" if kind is str else "a list of texts"
    for name in names:
        entry = content[name]
        parts = entry if isinstance(entry, list) else [entry]
        if not isinstance(entry, kind) or not all(isinstance(part, str) for part in parts):
            raise MaskError(f"{file}: expected {expected} for {name!r}, got {entry!r}", hint=hint)
    return content


def _entries(scores: Mapping[str, Score]) -> list[dict[str, Any]]:
    return [{"name": name, "iou": each.iou, "boundary_iou": each.boundary_iou} for name, each in scores.items()]


def _describe(values: Mapping[str, Any]) -> str:
    rows = [("IoU, mean over masks", values["iou"])]
    if values["miou"] is not None:
        rows.append((f"mIoU, mean over {len(values['iou_of_classes'])} classes", values["miou"]))
    rows.append(("boundary IoU", values["boundary_iou"]))
    rows += [(f"average recall, {group}", value) for group, value in values["average_recall"].items()]
    return table((f"{values['count']} masks", ""), [(name, f"{value:.3f}") for name, value in rows])
