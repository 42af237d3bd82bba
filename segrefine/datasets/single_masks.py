"""Single masks: for each image the mask of one object, and one JSON that says what each of them shows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from segrefine.datasets.class_folders import write_one
from segrefine.datasets.classes import read_names
from segrefine.datasets.files import MaskFiles
from segrefine.datasets.items import Item, Key, MaskResult, Pixels, check_size
from segrefine.datasets.notation import LABELS, Parts, Place
from segrefine.errors import MaskError
from segrefine.runtime.files.mask import check_mask, read_mask


class SingleMasks(MaskFiles):
    """`masks/NAME.png` or `.npy`, and `labels.json` with what each shows. Masks that are compared need no labels."""

    title = "mask"
    described = "a mask for each image"
    names_classes = False
    options = ("label",)

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether somebody says what each mask shows."""
        return place.labels is not None or place.options.label is not None

    @cached_property
    def _labels(self) -> dict[str, Any]:
        return read_names(self.place.labels) if self.place.labels else {}

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        if place.to_refine:
            _ = self._labels  # a file that cannot be read is an error of the whole data set

    def read_files(self, item: Item, files: Mapping[str, Path], image: Pixels | None) -> Parts:
        """Read the mask of an image."""
        [(file, path)] = files.items()
        mask = read_mask(path)
        if image is None:
            return Parts(size=(mask.shape[0], mask.shape[1]), masks={"": mask})
        size = image.shape[0], image.shape[1]
        check_size(mask.shape, size, file)
        check_mask(mask, size)
        label = self._labels.get(item.name, self.place.options.label)
        if not isinstance(label, str):
            message = f"it does not say what the mask of {item.name} shows"
            hint = 'add it, such as {"photo": "fox"}; or give --label for all masks'
            raise MaskError(message, subject=LABELS, hint=hint)
        return Parts(size=size, masks={"": mask}, labels={"": label})

    def write_file(self, file: str, source: Path, target: Path, results: Mapping[Key, MaskResult]) -> None:
        """Write the refined mask, soft where it was soft."""
        write_one(source, target, results[""])
