"""Log of refined images and their quality, line by line in a file. A killed run loses one image at most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from segrefine.evaluation.scores import WORSE
from segrefine.runtime.files.output import write_whole
from segrefine.storage import output_errors

EVALUATIONS = "evaluations.jsonl"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Quality of the refined masks of one image.

    Attributes:
        what: the settings and the guard, as `identify` names them.
        image: the image's name.
        coarse: IoU of each coarse mask with the true one.
        refined: IoU of each refined mask.
        worth: what the model's evidence was worth for each mask; 1 where it was not measured.
        seconds: time that refining took.
    """

    what: str
    image: str
    coarse: tuple[float, ...]
    refined: tuple[float, ...]
    worth: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Quality of a refined set of images.

    Attributes:
        images: number of images.
        masks: number of masks.
        coarse: mean IoU of the coarse masks.
        iou: mean IoU of the refined masks.
        made_worse: share of the masks that lost more than 0.02 of IoU, in [0, 1].
        seconds: mean time of an image.
    """

    images: int
    masks: int
    coarse: float
    iou: float
    made_worse: float
    seconds: float

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation]) -> Figures:
        """The figures of at least one image."""
        coarse = [value for each in evaluations for value in each.coarse]
        refined = [value for each in evaluations for value in each.refined]
        return cls(
            images=len(evaluations),
            masks=len(refined),
            coarse=fmean(coarse),
            iou=fmean(refined),
            made_worse=fmean(after < before - WORSE for before, after in zip(coarse, refined, strict=True)),
            seconds=fmean(each.seconds for each in evaluations),
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


class Evaluations:
    """All that is known so far; each addition is a line of a file at once.

    Args:
        folder: where the file lies; evaluations that are there are read. A line that was cut short is dropped.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / EVALUATIONS
        found = list(_read(self._file))
        self._known = {(each.what, each.image): each for each in found}
        write_whole(self._file, "".join(map(_to_line, found)).encode())

    def __len__(self) -> int:
        return len(self._known)

    def get(self, what: str, image: str) -> Evaluation | None:
        """An evaluation that is known."""
        return self._known.get((what, image))

    def add(self, evaluation: Evaluation) -> None:
        """Note an evaluation.

        Raises:
            OutputError: the file cannot be written to.
        """
        self._known[evaluation.what, evaluation.image] = evaluation
        with output_errors(self._file), self._file.open("a", encoding="utf-8") as stream:
            stream.write(_to_line(evaluation))


def identify(kind: str, *values: Mapping[str, Any]) -> str:
    """A name for what is evaluated: its kind, and a hash of JSON values."""
    text = json.dumps(values, sort_keys=True)
    return f"{kind} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _to_line(evaluation: Evaluation) -> str:
    return json.dumps(asdict(evaluation)) + "\n"


def _read(file: Path) -> Iterable[Evaluation]:
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        with suppress(ValueError, TypeError):
            values = json.loads(line)
            lists = {name: tuple(map(float, values[name])) for name in ("coarse", "refined", "worth")}
            yield Evaluation(**values | lists)
