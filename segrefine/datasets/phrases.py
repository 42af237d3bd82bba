"""Data sets of phrases: each image has phrases, and each phrase one mask, which may be empty."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np

from segrefine.datasets.coco_file import key_of
from segrefine.datasets.items import Item, Key, MaskResult, PassedOver, Pixels
from segrefine.datasets.notation import AnyMask, Notation, Parts, Place
from segrefine.datasets.phrase_results import PREDICTIONS, PhraseResults, entry_of
from segrefine.datasets.polygons import Mask
from segrefine.errors import MaskError
from segrefine.runtime.files.output import write_whole
from segrefine.storage import output_errors

PARTS = "parts"
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """One phrase of an image.

    Attributes:
        number: an id that is its own in the whole data set.
        text: what it says.
        target: what the data set knows of its mask; only the data set reads it.
        groups: names of the groups that it counts in.
        problem: why it has no mask that can be read; None where it has one.
        caption: what it is a part of, and its place there; None where it is a sentence of its own.
    """

    number: int | str
    text: str
    target: Any
    groups: tuple[str, ...] = ()
    problem: str | None = None
    caption: tuple[str, int] | None = None


class PhraseData(Notation):
    """Phrases of images, each with its mask.

    Results are a JSON with the run lengths of each phrase's mask; see `phrase_results`. With `coarse`, the masks that
    are refined come from such a JSON. With `zero_shot` there are none: a model finds what the phrases name.
    """

    names_classes = False
    has_phrases = True
    is_unmistakable = True
    options: ClassVar[tuple[str, ...]] = ("split", "coarse", "zero_shot")

    @abstractmethod
    def list_items(self) -> Iterator[Item]:
        """The images with their phrases, each a `Phrase` of `Item.masks`."""

    @abstractmethod
    def read_masks(self, item: Item, size: tuple[int, int] | None) -> tuple[tuple[int, int], dict[Key, Mask | str]]:
        """The size (H, W) of an image and the mask of each phrase without a problem, bool (H, W), by its number.

        A sentence instead of a mask says why this phrase has none that can be read.

        Raises:
            MaskError: they cannot be read, or have another size than the image.
        """

    @cached_property
    def items(self) -> list[Item]:
        """The images with their phrases.

        Raises:
            MaskError: there is none.
        """
        items = list(self.list_items())
        if not items:
            raise MaskError(
                "it has no phrase in this split", subject=self.place.masks, hint="--split names another one"
            )
        return items

    @cached_property
    def entries(self) -> Mapping[str, Item]:
        """The same, by name; whether the images are there does not matter for comparing."""
        return {item.name: item for item in self.items}

    @cached_property
    def _coarse(self) -> PhraseResults | None:
        given = self.place.options.coarse
        if given is None:
            return None
        file = Path(given) / PREDICTIONS if Path(given).is_dir() else Path(given)
        place = Place(masks=file, images=None, root=file.parent, to_refine=False)
        if not PhraseResults.detect(place):
            raise MaskError(
                "it holds no predicted masks of phrases", subject=given, hint="segrefine bench writes such a file"
            )
        return PhraseResults(place)

    def read(self, item: Item, image: Pixels | None = None) -> Parts:
        """Read the masks of an image's phrases; see `Notation.read`."""
        phrases: Sequence[Phrase] = item.masks
        size = None if image is None else (image.shape[0], image.shape[1])
        masks: dict[Key, AnyMask] = {}
        problems = {each.number: f"{each.text!r:.60}: {each.problem}" for each in phrases if each.problem}
        texts = {each.number: each.text for each in phrases}
        if self.place.options.zero_shot:
            assert size is not None  # masks are found in images
        elif self._coarse is not None:
            found = self._coarse.read_item(item.name)
            size, masks = size or found.size, dict(found.masks)
        else:
            size, drawn = self.read_masks(item, size)
            masks = {key: mask for key, mask in drawn.items() if not isinstance(mask, str)}
            problems |= {key: f"{texts[key]!r:.60}: {why}" for key, why in drawn.items() if isinstance(why, str)}
        return Parts(
            size=size,
            masks={key: mask for key, mask in masks.items() if key in texts},
            labels=texts,
            numbers={each.number: each.number for each in phrases},
            groups={each.number: each.groups for each in phrases if each.groups},
            unusable=problems,
        )

    def write(self, item: Item, results: Mapping[Key, MaskResult], size: tuple[int, int], output: Path) -> None:
        """Write the masks of an image's phrases. A phrase without a result keeps its mask, or has an empty one."""
        kept: Mapping[Key, AnyMask] = {}
        if not self.place.options.zero_shot:
            kept = self.read(item, np.zeros((*size, 3), np.uint8)).masks
        empty, written = np.zeros(size, np.bool_), []
        for phrase in item.masks:
            mask = results[phrase.number].mask if phrase.number in results else kept.get(phrase.number, empty)
            written.append(entry_of(item.name, phrase.number, phrase.text, np.asarray(mask, np.bool_)))
        file = part_of(item, output)
        with output_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(written).encode())

    def is_done(self, item: Item, output: Path) -> bool:
        """Return whether the masks of an image's phrases are in `output`."""
        return part_of(item, output).is_file()

    def finish(self, output: Path) -> None:
        """Join the masks of all images to one JSON."""
        joined: list[Any] = []
        for item in self.items:
            if (part := part_of(item, output)).is_file():
                joined += json.loads(part.read_text("utf-8"))
        content = {"phrases_of": self.title, "phrases": joined}
        write_whole(output / PREDICTIONS, json.dumps(content).encode())

    def list_without_coarse(self) -> Sequence[str]:
        """Names of the items that the coarse masks lack."""
        return [item.name for item in self.items if self._coarse is not None and item.name not in self._coarse.entries]

    def pass_over(self) -> PassedOver:
        """Return nothing, since unnamed files are no part of the data set."""
        return PassedOver()

    def identities(self) -> Mapping[str, tuple[str, str]]:
        """Image and text of each phrase by its number."""
        return {
            str(key_of(each.number)): (item.name, each.text) for item in self.items for each in item.masks
        }  # fmt: skip


def part_of(item: Item, output: Path) -> Path:
    """The file of the masks of an image's phrases."""
    return output / PARTS / f"{quote(item.name, safe=' ', errors='surrogatepass')}.json"


def show(names: Sequence[str]) -> str:
    """The first of several names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
