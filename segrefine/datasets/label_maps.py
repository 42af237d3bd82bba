"""Label maps: for each image one picture or array of class indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.datasets.class_lists import classes_of
from segrefine.datasets.classes import IGNORED, VOC
from segrefine.datasets.files import MaskFiles
from segrefine.datasets.items import Item, Key, Pixels, check_size
from segrefine.datasets.notation import CLASSES, LABELS, AnyMask, Parts, Place
from segrefine.errors import MaskError, SegrefineError
from segrefine.runtime.mask import read_stored
from segrefine.runtime.output import save_label_map, voc_colours
from segrefine.runtime.refinement import Refinement

_LARGEST = 65535
_LOOKED_AT = 20
"""Files of a folder that are read to see whether they are VOC's label maps."""


class LabelMaps(MaskFiles):
    """A palette or grey picture, or a `.npy`, of class indices. Index 0 is the background, 255 is of no class."""

    title = "label map"
    described = "label maps"
    options = ("classes",)

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._assumes_voc = not place.has_classes
        self._classes = classes_of(place)
        if place.to_refine:
            self._classes.check_background()

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Whether somebody names the indices, or the first pictures have VOC's colours or indices."""
        return place.has_classes or are_voc(place)

    def read_files(self, item: Item, files: Mapping[str, Path], image: Pixels | None) -> Parts:
        """Read the masks of the classes in an image."""
        [(file, path)] = files.items()
        stored = read_stored(path)
        indices = indices_of(stored, path)
        if image is not None:
            check_size(indices.shape, (image.shape[0], image.shape[1]), path.name)
        if self.place.to_refine and self._assumes_voc and _looks_binary(stored):
            message = f"{path.name} holds only black and white, or 0 and 1, and may be the mask of one object"
            raise MaskError(message, hint=f"{LABELS} says what masks show; {CLASSES} names the indices of label maps")
        masks: dict[Key, AnyMask] = dict(self._classes.split(indices, path.name if self.place.to_refine else str(path)))
        return Parts(
            size=(indices.shape[0], indices.shape[1]),
            masks=masks,
            labels={name: str(name) for name in masks},
            prompts=self._classes.prompts,
            ignored=np.isin(indices, list(self._classes.ignored)) if self._classes.ignored else None,
            background=self._classes.background,
        )

    def write_file(self, file: str, source: Path, target: Path, results: Mapping[Key, Refinement]) -> None:
        """Write the refined label map. A pixel of no class stays so where no class claims it."""
        numbers: dict[Key, int] = {name: index for index, name in self._classes.names.items()}
        stored = read_stored(source)
        labels = indices_of(stored, source)
        if self._classes.background is not None:
            labels[~np.isin(labels, list(self._classes.ignored))] = 0
        for name, result in results.items():
            labels[result.mask] = numbers[name]
        save_label_map(target, labels.astype(stored.dtype) if isinstance(stored, np.ndarray) else labels)


def read_label_map(path: Path) -> NDArray[np.integer[Any]]:
    """The indices of a label map, whole numbers (H, W), of a palette or grey PNG or of a `.npy`.

    Raises:
        ImageError: it cannot be read.
        MaskError: it holds no indices.
    """
    return indices_of(read_stored(path), path)


def indices_of(stored: Image.Image | NDArray[Any], path: Path) -> NDArray[np.integer[Any]]:
    """The indices that a file holds, in an array of their own; see `read_label_map`."""
    if isinstance(stored, Image.Image):
        if stored.mode not in ("P", "L", "I", "I;16", "1"):
            message = f"{path}: expected a palette or grey label map, got colours ({stored.mode})"
            raise MaskError(message, hint="save the indices as a palette PNG")
        stored = np.asarray(stored).astype(np.int32)
    if stored.ndim != 2 or stored.dtype.kind not in "iub":
        message = f"{path}: expected a label map of whole numbers (H, W), got {stored.dtype} {stored.shape}"
        hint = f"save the indices as a palette PNG; of a mask of one object, {LABELS} says what it shows"
        raise MaskError(message, hint=hint)
    if stored.size and not 0 <= stored.min() <= stored.max() <= _LARGEST:
        message = f"{path}: expected indices from 0 to {_LARGEST}, got {stored.min()} to {stored.max()}"
        raise MaskError(message, hint=f"{IGNORED} is of no class")
    return stored.astype(np.int32)


def _looks_binary(stored: Image.Image | NDArray[Any]) -> bool:
    """Whether what a file holds may be the mask of one object.

    That is black and white, or without a palette nothing but 0, 1 and 255. Nothing tells such a mask from a label map;
    a palette does, unless it is in black and white too.
    """
    values_of_masks = [0, 1, IGNORED]
    if isinstance(stored, Image.Image) and stored.mode == "P":
        stored, values_of_masks = stored.convert("L"), [0, IGNORED]
    values = np.asarray(stored)
    return values.dtype == np.bool_ or bool(values.any() and np.isin(values, values_of_masks).all())


def are_voc(place: Place) -> bool:
    """Whether the masks are label maps of PASCAL VOC: one in its colours, or all grey and of its indices, some above 1.

    The first files are read.
    """
    files = [place.masks / file for file in place.files if Path(file).suffix.lower() in MaskFiles.suffixes]
    return _have_voc_values(files[:_LOOKED_AT])


def _have_voc_values(files: Iterable[Path]) -> bool:
    colours, grey = voc_colours(len(VOC.names) + 1).ravel().tolist(), set[int]()
    for file in files:
        try:
            stored = read_stored(file)
        except SegrefineError:  # reading the file for what it is says so
            continue
        if isinstance(stored, Image.Image) and stored.mode == "P":
            if (stored.getpalette() or [])[: len(colours)] == colours:
                return True
        elif isinstance(stored, Image.Image) and stored.mode == "L":
            grey |= set(np.unique(np.asarray(stored)).tolist())
    return grey <= {0, *VOC.names, IGNORED} and bool(grey - {0, 1, IGNORED})
