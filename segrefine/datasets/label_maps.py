"""Label maps: for each image one picture or array of class indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segrefine.datasets.class_lists import classes_of
from segrefine.datasets.classes import IGNORED, VOC
from segrefine.datasets.files import MaskFiles
from segrefine.datasets.items import Item, Key, MaskResult, Pixels, check_size
from segrefine.datasets.notation import CLASSES, LABELS, AnyMask, Parts, Place
from segrefine.errors import MaskError, SegrefineError
from segrefine.runtime.files.image import read_bytes
from segrefine.runtime.files.mask_values import level_values, may_be_one_object, to_indices
from segrefine.runtime.files.output import save_label_map, voc_colours
from segrefine.runtime.files.stored import Stored, decode

_LOOKED_AT = 20
"""Files of a folder that are read to see whether they are VOC's label maps."""


class LabelMaps(MaskFiles):
    """A palette or grey picture, or a `.npy`, of class indices. Index 0 is the background, 255 is of no class."""

    title = "label map"
    described = "label maps"
    options: ClassVar[tuple[str, ...]] = ("classes",)

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._assumes_voc = not place.has_classes
        self._classes = classes_of(place)
        if place.to_refine:
            self._classes.check_background()

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether somebody names the indices, or the first pictures have VOC's colours or indices."""
        return place.has_classes or are_voc(place)

    def read_files(self, item: Item, files: Mapping[str, Path], image: Pixels | None) -> Parts:
        """Read the masks of the classes in an image."""
        [(file, path)] = files.items()
        stored = _read(path)
        indices = self._indices_of(stored, path)
        if image is not None:
            check_size(indices.shape, (image.shape[0], image.shape[1]), path.name)
        if self.place.to_refine and self._assumes_voc and may_be_one_object(stored):
            message = "it holds only black and white, or 0 and 1, and may be the mask of one object"
            hint = f"{LABELS} says what masks show; {CLASSES} names the indices of label maps"
            raise MaskError(message, subject=path.name, hint=hint)
        masks: dict[Key, AnyMask] = dict(self._classes.split(indices, path.name if self.place.to_refine else str(path)))
        return Parts(
            size=(indices.shape[0], indices.shape[1]),
            masks=masks,
            labels={name: str(name) for name in masks},
            prompts=self._classes.prompts,
            ignored=np.isin(indices, list(self._classes.ignored)) if self._classes.ignored else None,
            background=self._classes.background,
        )

    def write_file(self, file: str, source: Path, target: Path, results: Mapping[Key, MaskResult]) -> None:
        """Write the refined label map. A pixel of no class stays so where no class claims it."""
        numbers: dict[Key, int] = {name: index for index, name in self._classes.names.items()}
        stored = _read(source)
        labels = self._indices_of(stored, source)
        if self._classes.background is not None:
            labels[~np.isin(labels, list(self._classes.ignored))] = 0
        for name, result in results.items():
            labels[result.mask] = numbers[name]
        save_label_map(target, labels.astype(stored.values.dtype) if stored.is_array else labels)

    def _indices_of(self, stored: Stored, path: Path) -> NDArray[np.int32]:
        classes = self._classes
        named = classes.names.keys() - (() if classes.background is None else {0})
        return to_indices(stored, str(path), named=named, ignored=classes.ignored)


def _read(path: Path) -> Stored:
    return decode(read_bytes(path), str(path))


def read_label_map(path: Path) -> NDArray[np.integer[Any]]:
    """The indices of a label map, whole numbers (H, W), of a palette or grey PNG or of a `.npy`.

    Raises:
        ImageError: it cannot be read.
        MaskError: it holds no indices.
    """
    return to_indices(_read(path), str(path))


def are_voc(place: Place) -> bool:
    """Return whether the masks are PASCAL VOC's: one has its colours, or all are grey with its indices, some above 1.

    The first files are read.
    """
    files = [place.masks / file for file in place.files if Path(file).suffix.lower() in MaskFiles.suffixes]
    return _have_voc_values(files[:_LOOKED_AT])


def _have_voc_values(files: Iterable[Path]) -> bool:
    colours, grey = voc_colours(len(VOC.names) + 1), set[int]()
    for file in files:
        try:
            stored = _read(file)
        except SegrefineError:  # reading the file for what it is says so
            continue
        if stored.palette is not None and np.array_equal(stored.palette[: len(colours)], colours):
            return True
        grey |= set(level_values(stored).tolist())
    return grey <= {0, *VOC.names, IGNORED} and bool(grey - {0, 1, IGNORED})
