"""Masks without their images, in all notations that `segrefine batch` reads and writes: for comparing them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.datasets.coco_file import LEFT_OUT, UnusableMask, key_of, label_of, read_annotation, read_coco
from segrefine.datasets.folder import (
    CLASSES,
    IGNORED,
    MASK_SUFFIXES,
    VOC_CLASSES,
    are_classes,
    read_classes,
    read_label_map,
    split_label_map,
    walk,
)
from segrefine.datasets.items import Kind, whole_number
from segrefine.errors import MaskError, SegrefineError
from segrefine.runtime.mask import read_mask, read_stored
from segrefine.runtime.output import voc_colours

Mask = NDArray[np.bool_]
_LOOKED_AT = 20
"""Files of a folder from which its notation is told."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """All masks of one image.

    Attributes:
        size: (H, W) of the image.
        masks: bool (H, W), by their keys: the label; of COCO's instances the annotation's id; "" of a mask alone.
        labels: what the masks show, by the same keys; without those of which nobody says.
        ignored: bool (H, W), pixels that are of no class and do not count; None for none.
        background: name of the class of all other pixels; None where that is no class.
        unusable: a sentence for each annotation without a usable mask, by its key; these are not compared.
    """

    size: tuple[int, int]
    masks: Mapping[str, Mask]
    labels: Mapping[str, str] = field(default_factory=dict)
    ignored: Mask | None = None
    background: str | None = None
    unusable: Mapping[str, str] = field(default_factory=dict)


class MaskStore(Protocol):
    """Masks of many images."""

    @property
    def kind(self) -> Kind:
        """Of the masks."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The images that have masks."""
        ...

    def read(self, name: str) -> Parts:
        """The masks of an image.

        Raises:
            SegrefineError: they cannot be read.
        """
        ...


class FolderMasks:
    """The masks in a folder, by their paths below it without suffixes.

    Attributes:
        names: of their images; in class folders without the class.
        kind: of the masks.

    Args:
        folder: the folder.
        kind: of the masks.
        classes: names by index, for label maps.

    Raises:
        MaskError: two files have one name.
    """

    def __init__(self, folder: Path, kind: Kind, classes: Mapping[int, str]) -> None:
        self.folder, self.kind, self._classes = folder, kind, classes
        self._files: dict[str, dict[str, str]] = {}
        for file in sorted(_mask_files(folder)):
            name, key = os.path.splitext(file)[0], ""
            if kind == "class folders":
                key, _, name = name.partition("/")
            if not name:
                continue  # a file beside the classes
            files = self._files.setdefault(name, {})
            if other := files.get(key):
                raise MaskError(f"{folder / other} and {file} have one name", hint="keep one file for each mask")
            files[key] = file
        self.names = sorted(self._files)

    def read(self, name: str) -> Parts:
        """The masks of an image."""
        files = {key: self.folder / file for key, file in self._files[name].items()}
        if self.kind == "label map":
            return self._read_label_map(files[""])
        masks = {key: read_mask(file) > 0.5 for key, file in files.items()}
        size = next(iter(masks.values())).shape
        for key, mask in masks.items():
            if mask.shape != size:
                raise MaskError(f"{files[key]} has another size than the other masks of {name}", hint="scale it")
        labels = {key: key for key in masks} if self.kind == "class folders" else {}
        return Parts(size=(size[0], size[1]), masks=masks, labels=labels)

    def _read_label_map(self, file: Path) -> Parts:
        indices = read_label_map(file)
        ignored = indices == IGNORED if IGNORED not in self._classes else None
        masks = dict(split_label_map(indices, self._classes, str(file)))
        background = self._classes.get(0, "background")
        size = indices.shape[0], indices.shape[1]
        return Parts(size=size, masks=masks, labels={key: key for key in masks}, ignored=ignored, background=background)


class CocoMasks:
    """The masks in a COCO JSON.

    Attributes:
        kind: "COCO".
        names: of its images: their ids.
        left_out: ids of images that failed in the batch that wrote it.
        by_instance: whether each annotation is a mask, named by its id; else all of one category are one.

    Args:
        file: the JSON.

    Raises:
        MaskError: it is no COCO JSON, or an id is not of one thing only.
    """

    kind: Kind = "COCO"

    def __init__(self, file: Path) -> None:
        content, self._file = read_coco(file), file
        self._labels = {key_of(category["id"]): category["name"] for category in content["categories"]}
        self._images = {str(key_of(image["id"])): image for image in content["images"]}
        if len(self._images) < len(content["images"]):
            raise MaskError(f"{file}: two images have one id", hint="give every image its own id")
        self._annotations: dict[str, list[dict[str, Any]]] = {name: [] for name in self._images}
        for annotation in content["annotations"]:
            self._annotations.setdefault(str(key_of(annotation["image_id"])), []).append(annotation)
        self.names, self.by_instance = sorted(self._images), True
        listed = content.get(LEFT_OUT)
        left_out = {str(key_of(each)) for each in listed} if isinstance(listed, list) else set()
        self.left_out = left_out - self._images.keys()

    def identities(self) -> dict[Any, tuple[str, str]] | None:
        """Image and label of each annotation by its id; None where ids are missing or come twice."""
        pairs = [(name, each) for name, several in self._annotations.items() for each in several]
        found = {key_of(each.get("id")): (name, str(self._label_of(each))) for name, each in pairs}
        return None if None in found or len(found) < len(pairs) else found

    def _label_of(self, annotation: Mapping[str, Any]) -> str | None:
        return self._labels.get(key_of(annotation.get("category_id")))

    def file_of(self, name: str) -> str:
        """The file name of an image."""
        return str(self._images[name]["file_name"])

    def read(self, name: str) -> Parts:
        """The masks of an image."""
        size = self._size_of(name)
        masks: dict[str, Mask] = {}
        labels, unusable = {}, {}
        for annotation in self._annotations[name]:
            label = label_of(self._label_of(annotation), annotation)
            number = str(key_of(annotation.get("id")))
            key = number if self.by_instance else label
            try:
                mask = read_annotation(annotation, size)
            except UnusableMask as error:
                unusable[number if self.by_instance else f"annotation {number}"] = str(error)
                continue
            masks[key] = masks[key] | mask if key in masks else mask
            labels[key] = label
        return Parts(size=size, masks=masks, labels=labels, unusable=unusable)

    def _size_of(self, name: str) -> tuple[int, int]:
        """(H, W) as the image's entry says, or else one of its run lengths."""
        drawn = [each.get("segmentation") for each in self._annotations[name]]
        sizes: list[Any] = [[self._images[name].get(side) for side in ("height", "width")]]
        sizes += [each.get("size") for each in drawn if isinstance(each, dict)]
        for size in sizes:
            sides = [whole_number(side) or 0 for side in size] if isinstance(size, list) else []
            if len(sides) == 2 and min(sides) > 0:
                return sides[0], sides[1]
        message = f"{self._file} does not say how large image {name} is"
        raise MaskError(message, hint="add height and width to its entry in images")


def open_masks(
    places: Sequence[Path], *, labelled: bool, classes: Path | None, images: Path | None = None
) -> list[MaskStore]:
    """The masks in several places, all in the notation of the first.

    Folders hold label maps where `classes` says what the indices mean, or where they are palette pictures in VOC's
    colours, or grey ones of its indices; or a folder for each class; else, and where every mask is labelled, a mask for
    each image.

    Args:
        places: folders of masks, or COCO JSONs.
        labelled: whether somebody says what each mask shows.
        classes: a file with names by index; None for the names of PASCAL VOC.
        images: folder of the images, which tells classes from parts of a data set; None where it is not known.

    Raises:
        MaskError: some are folders and some JSONs, or folders may be classes or not; see `FolderMasks`, `CocoMasks`.
    """
    if len({place.is_file() for place in places}) > 1:
        words = ", ".join(f"{place} ({'a JSON' if place.is_file() else 'a folder'})" for place in places)
        raise MaskError(f"expected all masks in one notation, got {words}", hint="compare like with like")
    if not places[0].is_file():
        kind = "mask" if labelled else _find_kind(places[0], classes, images)
        names = read_classes(classes or places[0] / CLASSES)
        return [FolderMasks(place, kind, names) for place in places]
    stores = [CocoMasks(place) for place in places]
    truth, *others = (store.identities() for store in stores)
    same = truth is not None and all(other is not None and other.items() <= truth.items() for other in others)
    for store in stores:
        store.by_instance = same
    return [*stores]


def _find_kind(folder: Path, classes: Path | None, images: Path | None) -> Kind:
    files = sorted(_mask_files(folder))
    if classes or _are_voc(folder / file for file in files[:_LOOKED_AT]):
        return "label map"
    if not files or not all("/" in file for file in files):
        return "mask"
    return "class folders" if are_classes(sorted({file.partition("/")[0] for file in files}), images) else "mask"


def _are_voc(files: Iterable[Path]) -> bool:
    """Whether files are label maps of PASCAL VOC: one in its colours, or all grey and of its indices, some above 1."""
    colours, grey = voc_colours(len(VOC_CLASSES)).ravel().tolist(), set[int]()
    for file in files:
        try:
            stored = read_stored(file)
        except SegrefineError:  # this is told when it is compared
            continue
        if isinstance(stored, Image.Image) and stored.mode == "P":
            if (stored.getpalette() or [])[: len(colours)] == colours:
                return True
        elif isinstance(stored, Image.Image) and stored.mode == "L":
            grey |= set(np.unique(np.asarray(stored)).tolist())
    return grey <= {*range(len(VOC_CLASSES)), IGNORED} and bool(grey - {0, 1, IGNORED})


def _mask_files(folder: Path) -> Iterator[str]:
    return (file for file in walk(folder) if Path(file).suffix.lower() in MASK_SUFFIXES)
