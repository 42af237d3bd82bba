"""A notation that nobody uses: `masks/NAME.toy`, the label on the first line, then a row of 0 and 1 a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segrefine.datasets.files import MaskFiles
from segrefine.datasets.items import Item, Key, MaskResult, Pixels
from segrefine.datasets.notation import Parts, Place
from segrefine.runtime.files.output import write_whole


class Toy(MaskFiles):
    title = "toy"
    described = "rows of digits"
    suffixes = (".toy",)
    is_unmistakable = True

    @classmethod
    def detect(cls, place: Place) -> bool:
        return any(file.endswith(".toy") for file in place.files)

    def read_files(self, item: Item, files: Mapping[str, Path], image: Pixels | None) -> Parts:
        [path] = files.values()
        label, *rows = path.read_text().splitlines()
        mask = np.array([[digit == "1" for digit in row] for row in rows])
        return Parts(size=(mask.shape[0], mask.shape[1]), masks={label: mask}, labels={label: label})

    def write_file(self, file: str, source: Path, target: Path, results: Mapping[Key, MaskResult]) -> None:
        [(label, result)] = results.items()
        rows = ("".join("1" if pixel else "0" for pixel in row) for row in result.mask)
        write_whole(target, "\n".join([str(label), *rows]).encode())
