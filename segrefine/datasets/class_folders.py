"""Class folders: for each class a folder with a mask of each image that shows it, hard or soft."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from PIL import Image

from segrefine.datasets.files import MaskFiles
from segrefine.datasets.items import Item, Key, MaskResult, Pixels, check_size
from segrefine.datasets.label_maps import are_voc
from segrefine.datasets.notation import CLASSES, LABELS, AnyMask, Parts, Place
from segrefine.datasets.tree import find_image, list_subfolders
from segrefine.errors import MaskError
from segrefine.runtime.files.mask import read_mask
from segrefine.runtime.files.output import save_mask, save_probability

_LOOKED_AT = 20
"""Masks whose images are looked for, to tell classes from other folders."""
_SPLITS = {"train", "training", "trainval", "val", "valid", "validation", "test", "testing"}


class ClassFolders(MaskFiles):
    """`masks/CLASS/NAME.png` or `.npy`. Folders that `images/` has as well are no classes but splits of the data."""

    title = "class folders"
    described = "class folders"

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether all masks are in folders that are classes.

        VOC's label maps are in folders of another kind, unless their names below those folders are names of images.
        """
        if place.has_classes or not place.masks.is_dir():
            return False
        with os.scandir(place.masks) as entries:
            if any(Path(entry.name).suffix.lower() in cls.suffixes and entry.is_file() for entry in entries):
                return False
        subfolders = list_subfolders(place.masks)
        if not subfolders or not are_classes(subfolders, place):
            return False
        return not are_voc(place) or _name_images(place)

    @cached_property
    def _folders(self) -> list[str]:
        return list_subfolders(self.place.masks)

    def stems_of(self, name: str) -> Sequence[str]:
        """Paths of an image's masks below the folder of masks, without their suffixes."""
        return [f"{folder}/{name}" for folder in self._folders]

    def name_of(self, file: str) -> str:
        """The name of the image of a mask; "" for a file that is in no class."""
        return os.path.splitext(file.partition("/")[2])[0]

    def pattern_of(self, name: str) -> str:
        """Return the path where the mask of an image is expected, without its suffix, for messages."""
        return f"CLASS/{name}"

    def keys_of(self, file: str, results: Mapping[Key, MaskResult]) -> Sequence[Key]:
        """The class of a file."""
        return [file.partition("/")[0]]

    def read_files(self, item: Item, files: Mapping[str, Path], image: Pixels | None) -> Parts:
        """Read the masks of the classes of an image."""
        found = {file.partition("/")[0]: read_mask(path) for file, path in files.items()}
        first = next(iter(found.values())).shape
        size = (first[0], first[1]) if image is None else (image.shape[0], image.shape[1])
        for (file, path), mask in zip(files.items(), found.values(), strict=True):
            if image is not None:
                check_size(mask.shape, size, file)
            elif mask.shape != size:
                raise MaskError(
                    f"it has another size than the other masks of {item.name}", subject=path, hint="scale it"
                )
        masks: dict[Key, AnyMask] = dict(found.items())
        return Parts(size=size, masks=masks, labels={name: name for name in found})

    def write_file(self, file: str, source: Path, target: Path, results: Mapping[Key, MaskResult]) -> None:
        """Write a refined mask, soft where it was soft."""
        write_one(source, target, results[file.partition("/")[0]])


def write_one(source: Path, target: Path, result: MaskResult) -> None:
    """Write one refined mask, soft where the source is soft."""
    if _is_soft(source):
        save_probability(target, result.probability)
    else:
        save_mask(target, result.mask)


def _is_soft(path: Path) -> bool:
    if path.suffix.lower() == ".npy":
        return True
    with Image.open(path) as image:
        return image.mode.startswith("I")


def _name_images(place: Place) -> bool:
    """Return whether one of the first masks has the name of an image, less the folder that it is in."""
    names = (os.path.splitext(file.partition("/")[2])[0] for file in place.files[:_LOOKED_AT])
    found = (find_image(place.images, name) for name in names if name) if place.images else ()
    return any(found)


def are_classes(subfolders: Sequence[str], place: Place) -> bool:
    """Return whether the folders of masks are classes, and not splits of the data set such as `train` and `val`.

    Splits are those that the images lie in as well. Without images, the names of all must be those of splits.

    Args:
        subfolders: their names, at least one.
        place: where the data set lies.

    Raises:
        MaskError: some are splits, and some may be classes.
    """
    if place.images is None:
        return not {name.casefold() for name in subfolders} <= _SPLITS
    images, masks = place.images.name, place.masks.name
    splits = [name for name in subfolders if (place.images / name).is_dir()]
    if splits and (rest := sorted(set(subfolders) - set(splits))):
        message = (
            f"{masks}/{splits[0]} is a part of the data set, as {images}/{splits[0]} is, but {masks}/{rest[0]} has"
        )
        hint = f"{LABELS} or {CLASSES} says that none is a class; else give classes and folders of images other names"
        raise MaskError(f"{message} no such partner, and may be a class", hint=hint)
    return not splits
