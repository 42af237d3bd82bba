"""The record of a run in its output folder: what failed and why, and the lock that keeps a second run out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from segrefine.errors import OutputError
from segrefine.runtime.files.output import write_whole
from segrefine.storage import LOCK, locked, output_errors

JOURNAL, MANIFEST, JUDGEMENTS = "journal.jsonl", "manifest.json", "guard.csv"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Verdict of the guard on one mask.

    Attributes:
        label: what the mask shows.
        annotation: COCO's id of it; None in a folder, where no other mask of the image has the label.
        confidence: that refining has not made the mask worse, in [0, 1]; see `segrefine.runtime.guard`.
        confidence_threshold: the least confidence that the guard accepts; None in a journal of an earlier version.
        kept_share: share of the changed pixels that were put back, in [0, 1].
        kept_coarse: nothing was trusted, and the mask is the coarse one.
    """

    label: str
    annotation: int | str | None
    confidence: float
    confidence_threshold: float | None = None
    kept_share: float
    kept_coarse: bool


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Outcome of one item.

    Attributes:
        name: the item's.
        status: "done" or "failed".
        masks: how many were refined.
        left: how many stayed as they were, for there was nothing to refine: they are empty, or of the whole image.
        unusable: a sentence for each annotation without a usable mask, which stayed as it was.
        turned: how the image is turned, as its EXIF orientation says; None where it is not.
        kept_coarse: how many of them the guard did not trust, and left as they were.
        kept_partly: how many of them it put back in parts.
        judged: what it made of each; nothing where there was no guard.
        seconds: reading, refining and writing together.
        error: the kind of the error, by its class; None where it is done.
        message: what the error says.
        hint: what to do about it.
    """

    name: str
    status: Literal["done", "failed"]
    masks: int = 0
    left: int = 0
    unusable: tuple[str, ...] = ()
    turned: str | None = None
    kept_coarse: int = 0
    kept_partly: int = 0
    judged: tuple[Judgement, ...] = ()
    seconds: float = 0.0
    error: str | None = None
    message: str | None = None
    hint: str | None = None


class Journal:
    """The lines of `journal.jsonl`: one for each item that was finished, in the order in which they were.

    Results say for themselves that they are there, for a file has its name only once it is whole. The journal is what
    is known besides; its last line may be cut short when the run is killed, and is dropped then.
    """

    def __init__(self, output: Path) -> None:
        self._file, self._cut = output / JOURNAL, False
        lines = list(_read_lines(self._file))
        self.entries = {entry.name: entry for entry in lines}
        write_whole(self._file, "".join(map(_to_line, lines)).encode())

    def add(self, entry: Entry) -> None:
        """Adds a line; where the disk is full it is kept in mind alone, for results fail then with that very error."""
        self.entries[entry.name] = entry
        before, self._cut = "\n" * self._cut, True  # a line that the disk had no room for ends where it was cut
        with suppress(OSError):
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(before + _to_line(entry))
            self._cut = False


def read_journal(output: Path) -> dict[str, Entry]:
    """Return the outcomes of a run that wrote to `output`, by item name; empty if there was no run."""
    return {entry.name: entry for entry in _read_lines(output / JOURNAL)}


def _read_lines(file: Path) -> Iterator[Entry]:
    """The entries of a journal; lines that are cut short are left out."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        with suppress(ValueError, TypeError):
            values = json.loads(line)
            judged = tuple(Judgement(**each) for each in values.pop("judged", ()))
            unusable = tuple(values.pop("unusable", ()))
            yield Entry(**values, judged=judged, unusable=unusable)


def _to_line(entry: Entry) -> str:
    return json.dumps(asdict(entry)) + "\n"  # in ASCII: a file's name need not be valid Unicode


def summarise(entries: Sequence[Entry], run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest: the course of the run, the number of finished items and masks, and failures with reasons.

    Args:
        entries: of the items.
        run: facts of the run.
    """
    failed = [asdict(entry) for entry in entries if entry.status == "failed"]
    return {
        **run,
        "done": sum(entry.status == "done" for entry in entries),
        "failed": len(failed),
        "masks_refined": sum(entry.masks for entry in entries),
        "masks_left": sum(entry.left for entry in entries),
        "nothing_to_refine": [entry.name for entry in entries if entry.left and not entry.masks],
        "unusable_masks": [f"{entry.name}: {each}" for entry in entries for each in entry.unusable],
        "turned_images": [f"{entry.name}: {entry.turned}" for entry in entries if entry.turned],
        "kept_coarse": sum(entry.kept_coarse for entry in entries),
        "kept_partly": sum(entry.kept_partly for entry in entries),
        "failures": [{key: each[key] for key in ("name", "error", "message", "hint")} for each in failed],
    }


def write_manifest(output: Path, values: Mapping[str, Any]) -> None:
    """Writes what `summarise` gave to `manifest.json`.

    Raises:
        OutputError: there is no place.
    """
    write_whole(output / MANIFEST, (json.dumps(values, indent=2) + "\n").encode())


def write_judgements(output: Path, entries: Iterable[Entry]) -> None:
    """Writes what the guard made of every mask to `guard.csv`, the least certain first.

    An image that was refined just before its run was killed, and so was not noted any more, is a line with its name
    alone, before all others.

    Raises:
        OutputError: there is no place.
    """
    columns, lines = [field.name for field in fields(Judgement)], []
    for entry in entries:
        if entry.status == "done" and not entry.seconds:
            lines.append((-1.0, [entry.name, *[""] * len(columns)]))
        lines += [(each.confidence, [entry.name, *asdict(each).values()]) for each in entry.judged]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *columns])
    writer.writerows(line for _, line in sorted(lines, key=lambda pair: pair[0]))
    write_whole(output / JUDGEMENTS, text.getvalue().encode(errors="backslashreplace"))


@contextmanager
def claimed(output: Path, *, resume: bool) -> Iterator[None]:
    """A context in which the output folder is this run's alone; leftovers of a killed run are removed first.

    Args:
        output: the folder; made where there is none.
        resume: whether results may be there already.

    Raises:
        OutputError: another run writes there, it cannot be written to, or it is not empty and nothing is to be resumed.
    """
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        if not resume and any(path.name != LOCK for path in output.iterdir()):
            raise OutputError(f"{output} is not empty", hint="choose a new folder, or continue with --resume")
    with ExitStack() as stack:
        with output_errors(output):
            try:
                stack.enter_context(locked(output, wait=False))
            except BlockingIOError as error:
                hint = "wait for it, or choose another folder"
                raise OutputError(f"another run writes to {output}", hint=hint) from error
            for leftover in output.rglob(".*.partial"):
                leftover.unlink()
        yield
