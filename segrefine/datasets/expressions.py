"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO: expressions that name objects of COCO images."""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segrefine.datasets.annotation_files import complete_entries, find_nearby, find_twice
from segrefine.datasets.coco_file import UnusableMask, key_of, read_annotation, read_coco
from segrefine.datasets.items import Item, Key, whole_number
from segrefine.datasets.notation import Place
from segrefine.datasets.phrases import Phrase, PhraseData, show
from segrefine.datasets.polygons import Mask
from segrefine.errors import MaskError
from segrefine.storage import read_json

HINT = (
    "expected refs(unc).p, refs(umd).p, refs(google).p, grefs(unc).json or a JSON of the same list, with "
    "instances.json next to it; --images names the folder of the images"
)
NEARBY = (
    "images", "../images/mscoco/images/train2014", "../images/train2014", "../images/mscoco", "../images",
    "../train2014", "train2014",
)  # fmt: skip
_ORDER = ("refs(unc).p", "refs(umd).p", "refs(google).p", "grefs(unc).json", "grefs(unc).p")
_FOLDERS = ("refcoco", "refcoco+", "refcocog", "grefcoco")
"""Folders of the data sets, which are also the names of the benchmarks."""
_OF_FILES = {"grefs(": ("grefcoco",), "refs(umd)": ("refcocog",)}
_LETTERS = {"testA": "A", "testB": "B", "testC": "C"}
NO_TARGET = -1


class Expressions(PhraseData):
    """The expressions of one split, such as `refcoco/refs(unc).p`; the image's id names an item.

    In gRefCOCO an expression may name several objects, whose masks are joined, or none: its mask is empty. Annotations
    of crowds are no part of such a mask.
    """

    title = "expressions"
    described = "referring expressions"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._faults: Counter[str] = Counter()

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether a file has the name that expressions have."""
        return place.masks.is_file() and is_expressions(place.masks)

    @cached_property
    def _images(self) -> Path:
        places = [self.place.masks.parent / name for name in NEARBY]
        return self.place.images or find_nearby(places, "the images", HINT)

    @property
    def benchmarks(self) -> Sequence[str]:
        """List the benchmarks that file or folder name suggest. RefCOCO and RefCOCO+ use the same file names."""
        file = self.place.masks
        for start, names in _OF_FILES.items():
            if file.name.startswith(start):
                return names
        own = file.absolute().parent.name
        return (own,) if own in _FOLDERS else _FOLDERS[:3]

    @property
    def _split(self) -> str:
        return self.place.options.split or "val"

    def list_items(self) -> Iterator[Item]:
        """The images of the split, each with its expressions."""
        file = self.place.masks
        content = read_coco(find_nearby([file.parent / "instances.json"], "instances.json", HINT))
        refs = read_refs(file)
        for kind in ("images", "annotations"):
            if twice := find_twice(key_of(each.get("id")) for each in content[kind]):
                self._faults[f"ids that instances.json has twice among its {kind}; the last entry counts"] = len(twice)
        images = {key_of(each["id"]): each for each in content["images"]}
        annotations = {key_of(each.get("id")): each for each in content["annotations"]}
        phrases: dict[str, list[Phrase]] = {}
        known: set[str] = set()
        used: Counter[str] = Counter()
        with complete_entries(str(file), HINT):
            for ref in refs:
                split = str(ref.get("split", "train"))
                known.add(split)
                if is_in_split(split, self._split):
                    own = phrases.setdefault(str(key_of(ref["image_id"])), [])
                    own += self._list_phrases(ref, annotations, used)
        if not phrases:
            raise MaskError(
                f"it has no split {self._split!r}", subject=file, hint=f"--split takes {', '.join(sorted(known))}"
            )
        for name, own in phrases.items():
            yield self._make_item(name, own, images.get(name))

    def _list_phrases(
        self, ref: Mapping[str, Any], annotations: Mapping[str | None, Any], used: Counter[str]
    ) -> Iterator[Phrase]:
        numbers = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        problem, target = None, []
        for number in numbers:
            found = annotations.get(key_of(number))
            if found is not None:
                if not (isinstance(ref["ann_id"], list) and found.get("iscrowd")):
                    target.append(found)
            elif number != NO_TARGET:
                problem = f"instances.json has no annotation {number}"
        if problem:
            self._faults["expressions of annotations that instances.json lacks"] += len(ref["sentences"])
        for sentence in ref["sentences"]:
            text = str(sentence.get("raw") or sentence["sent"]).strip()
            number = str(key_of(sentence["sent_id"]))
            used[number] += 1
            if used[number] > 1:
                self._faults["expressions whose sent_id another one has"] += 1
                number = f"{number}-{used[number]}"
            if not text:
                self._faults["expressions without words, which are left out"] += 1
                continue
            yield Phrase(number=number, text=text, target=tuple(target), problem=problem)

    def _make_item(self, name: str, phrases: Sequence[Phrase], listed: Mapping[str, Any] | None) -> Item:
        root, problem, picture = self.place.root, None, ""
        if listed is None:
            problem = f"instances.json does not list image {name}", "download instances.json again"
        else:
            picture = Path(str(listed["file_name"])).name
        if self.place.to_refine and not problem:
            root = self._images
            if not (root / picture).is_file():
                problem = f"there is no image {picture} in {root}", "download the images of train2014"
        stated = (listed.get("height"), listed.get("width")) if listed else (None, None)
        return Item(name=name, root=root, image=picture, masks=tuple(phrases), problem=problem, stated=stated)

    def read_masks(self, item: Item, size: tuple[int, int] | None) -> tuple[tuple[int, int], dict[Key, Mask | str]]:
        """The joined masks of each expression's annotations."""
        if item.problem and size is None and not item.image:
            raise MaskError(item.problem[0], hint=item.problem[1])
        size = size or self._size_of(item)
        drawn: dict[str | None, Mask] = {}
        masks: dict[Key, Mask | str] = {}
        for phrase in item.masks:
            if not phrase.problem:
                try:
                    masks[phrase.number] = _join(phrase.target, size, drawn)
                except UnusableMask as error:
                    masks[phrase.number] = str(error)
        return size, masks

    def _size_of(self, item: Item) -> tuple[int, int]:
        height, width = (whole_number(side) or 0 for side in item.stated)
        if height < 1 or width < 1:
            raise MaskError(f"instances.json does not say how large image {item.name} is", hint=HINT)
        return height, width

    @property
    def lacks(self) -> Sequence[str]:
        """List missing and duplicate entries."""
        items = self.items
        sentences = [f"{count} {what}" for what, count in self._faults.items()]
        if missing := [item.name for item in items if item.problem]:
            sentences.append(f"{len(missing)} of {len(items)} images are missing: {show(missing)}")
        return sentences


def _join(annotations: Sequence[Mapping[str, Any]], size: tuple[int, int], drawn: dict[str | None, Mask]) -> Mask:
    """The joined masks of annotations, bool (H, W); `drawn` keeps those that were drawn before.

    Raises:
        UnusableMask: an annotation has none.
    """
    mask = np.zeros(size, np.bool_)
    for annotation in annotations:
        key = key_of(annotation.get("id"))
        if key not in drawn:
            drawn[key] = read_annotation(annotation, size)
        mask |= drawn[key]
    return mask


def is_in_split(own: str, wanted: str) -> bool:
    """Return whether an expression of the split `own` belongs to a wanted split, by the official rule."""
    if wanted in _LETTERS:
        return _LETTERS[wanted] in own
    return "test" in own if wanted == "test" else own == wanted


def is_expressions(file: Path) -> bool:
    """Return whether a file has the name that expressions have."""
    return file.name.startswith(("refs(", "grefs(")) and file.suffix in (".p", ".json")


def find_expressions(source: Path) -> Path | None:
    """The expressions in a folder or in the one data set below it, or the file itself; None where there are none.

    Raises:
        MaskError: the folder holds several data sets.
    """
    if source.is_file():
        return source if is_expressions(source) else None
    if own := _find_in(source):
        return own
    below = [file for name in _FOLDERS for root in (source, source / "data") if (file := _find_in(root / name))]
    if len(below) > 1:
        names = [file.parent.name for file in below]
        raise MaskError(
            f"it holds {', '.join(names)}", subject=source, hint=f"name the folder of one, such as {below[0].parent}"
        )
    return below[0] if below else None


def _find_in(folder: Path) -> Path | None:
    """The expressions right in a folder; None where there are none."""
    known = [folder / name for name in _ORDER]
    found = [file for file in known if file.is_file()] or sorted(filter(is_expressions, folder.glob("*refs(*")))
    return found[0] if found else None


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries, texts and numbers, and runs no code of the file."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and expressions need no code")


def read_refs(file: Path) -> list[dict[str, Any]]:
    """The expressions of a file, a pickle or a JSON. A pickle that would run code is refused.

    Raises:
        MaskError: the file cannot be read, or holds no list.
    """
    if file.suffix == ".json":
        content = read_json(file, MaskError, hint=HINT)
    else:
        try:
            content = _PlainUnpickler(io.BytesIO(file.read_bytes()), encoding="latin1").load()
        except Exception as error:  # a damaged pickle may raise anything
            raise MaskError(f"it cannot be read: {error}", subject=file, hint=HINT) from error
    if not isinstance(content, list):
        raise MaskError(subject=file, expected="a list of expressions", got=type(content).__name__, hint=HINT)
    return content
