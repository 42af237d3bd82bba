"""Classes of label maps by their index: what each is called, what the model is asked for, and what does not count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.datasets.notation import CLASSES
from segrefine.datasets.polygons import Mask
from segrefine.errors import MaskError
from segrefine.storage import read_json

IGNORED = 255
MOST_INDEX = 65535
"""Largest index that a label map of 16 bits holds."""
BACKGROUND = "background"
_MOST_DIGITS = 19
_BACKGROUNDS = {"background", "bg", "void", "none", "unlabeled", "unlabelled", "ignore", "other"}


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassList:
    """The classes of a data set.

    Attributes:
        names: of the classes by index, without the background.
        prompts: what the model is asked for, by name; a name that is not here is its own prompt.
        background: name of the background, which has index 0; None where there is no background.
        ignored: indices of pixels that are of no class.
        origin: the file or list that they come from, for errors.
    """

    names: Mapping[int, str]
    prompts: Mapping[str, str] = field(default_factory=dict)
    background: str | None = BACKGROUND
    ignored: frozenset[int] = frozenset({IGNORED})
    origin: str = CLASSES

    @property
    def nothing(self) -> int:
        """The index of pixels that are of no class."""
        return IGNORED if self.background is None else 0

    def prompt_of(self, name: str) -> str:
        """Return the prompt for a class."""
        return self.prompts.get(name, name)

    def split(self, indices: NDArray[np.integer[Any]], name: str) -> Iterator[tuple[str, Mask]]:
        """The name and the mask, bool (H, W), of each class in a label map.

        Args:
            indices: whole numbers (H, W).
            name: of the file, for errors.

        Raises:
            MaskError: an index has no name.
        """
        for index in np.unique(indices).tolist():
            if index in self.ignored or (index == 0 and self.background is not None):
                continue
            if index not in self.names:
                message = f"it holds index {index}, which has no name"
                raise MaskError(message, subject=name, hint=f"name it in {self.origin}")
            yield self.names[index], indices == index

    def check_background(self) -> None:
        """Check that index 0 is the background, for a class there would never be refined.

        Raises:
            MaskError: it has the name of a class.
        """
        if self.background is not None and self.background.strip(" _").casefold() not in _BACKGROUNDS:
            message = f"it has a class at index 0, {self.background!r}, which is the background here"
            hint = f'number the classes from 1, in label maps too; or if 0 shows nothing, call it "{BACKGROUND}"'
            raise MaskError(message, subject=self.origin, hint=hint)

    def check_findable(self) -> None:
        """Check that there are classes to look for, and that a label map can hold each of them.

        Raises:
            MaskError: there is none; or one has index 0, no name, or an index above 65535.
        """
        self.check_background()
        if not self.names:
            raise MaskError("it names no class", subject=self.origin, hint='such as ["background", "fox"]')
        for index, name in self.names.items():
            if not name.strip():
                hint = "name every class, or leave the index out"
                raise MaskError(f"the class at index {index} has no name", subject=self.origin, hint=hint)
            if index > MOST_INDEX:
                raise MaskError(
                    subject=f"{self.origin}: the index of {name!r}", expected=f"at most {MOST_INDEX}", got=index,
                    hint="number the classes from 1",
                )  # fmt: skip


def read_classes(file: Path) -> ClassList:
    """The classes in a JSON: a list of names, or names by index. Index 0 is the background, and may be null.

    Raises:
        MaskError: it holds something else.
    """
    return make_classes(read_names(file), str(file))


def make_classes(names_by_index: Mapping[str, Any], origin: str) -> ClassList:
    """The classes in names by index, which are decimal texts. Index 0 is the background, and may be None.

    Args:
        names_by_index: as JSON has them.
        origin: where they come from, for errors.

    Raises:
        MaskError: an index or a name is none, or comes twice.
    """
    content = dict(names_by_index)
    if content.get("0", "") is None:
        del content["0"]
    indices_are_numbers = all(index.isdecimal() and len(index) <= _MOST_DIGITS for index in content)
    if not indices_are_numbers or not all(isinstance(name, str) for name in content.values()):
        raise MaskError(
            "it holds something else than names by index", subject=origin, hint='such as ["background", "fox"]'
        )
    names = {int(index): name for index, name in content.items()}
    if len(names) < len(content):
        raise MaskError(
            "it has one index twice, such as 1 and 01", subject=origin, hint="give every class its own index"
        )
    if len(set(names.values())) < len(names):
        raise MaskError("it has one name twice", subject=origin, hint="give every class its own name")
    ignored = frozenset() if IGNORED in names else frozenset({IGNORED})
    background = names.pop(0, BACKGROUND)
    return ClassList(names=names, background=background, ignored=ignored, origin=origin)


def read_names(file: Path) -> dict[str, Any]:
    """The object that a JSON of names holds; the names of a list by their places.

    Raises:
        MaskError: it holds something else.
    """
    content = read_json(file, MaskError, hint="write it again")
    if isinstance(content, list):
        content = {str(index): name for index, name in enumerate(content)}
    if not isinstance(content, dict):
        raise MaskError(
            subject=file, expected="a JSON object", got=type(content).__name__, hint='such as {"photo": "fox"}'
        )
    return content


_VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
VOC = ClassList(names=dict(enumerate(_VOC, 1)))
"""PASCAL VOC: what label maps are taken for where nobody names their classes."""
