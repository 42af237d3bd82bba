"""YOLO's text: for each image a file with a line for each object: its class, and a polygon in shares of the size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from segrefine.datasets.classes import ClassList
from segrefine.datasets.files import MASK_SUFFIXES, MaskFiles
from segrefine.datasets.items import Item, Key, MaskResult, Pixels
from segrefine.datasets.notation import AnyMask, Parts, Place
from segrefine.datasets.pieces import Pixel, draw_pieces, split_into_pieces
from segrefine.datasets.tree import find_image
from segrefine.datasets.yolo_names import read_yolo_names
from segrefine.errors import ImageError, MaskError
from segrefine.runtime.files.image import open_image, read_bytes
from segrefine.runtime.files.marks import Box, Marks, coarse_from_marks
from segrefine.runtime.files.output import write_whole
from segrefine.storage import read_text

_CLASS = re.compile(r"([0-9]{1,6})(\.0*)?")
_LINE = re.compile(rf"{_CLASS.pattern}(\s+[-+0-9.eE]+)+\s*")
_NUMBERS = re.compile(r"\S+?([\s,;]+[-+0-9.eEna]+){4,}[\s,;]*")
"""A line that is meant as YOLO's, maybe with a name for a number, or with commas."""
_HINT = "a line is a class number, then x and y of three corners or more, each from 0 to 1"


class Yolo(MaskFiles):
    """Lines of `class x y x y …`; a line of four numbers is a box. Names are in `data.yaml` or `classes.txt`.

    An object that is refined is written as one line for each piece without a hole.
    """

    title = "YOLO"
    described = "YOLO text"
    is_unmistakable = True
    suffixes = (".txt",)
    options = ("boxes", "classes")

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._classes: ClassList = read_yolo_names(place)

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether the first text below the folder of masks has such lines; a lone text may nearly have them."""
        files = (file for file in place.files if file.lower().endswith(".txt") and file != "classes.txt")
        first = next(files, None)
        if first is None:
            return False
        is_alone = not any(file.lower().endswith(MASK_SUFFIXES) for file in place.files)
        lines = _lines_of(place.masks / first)
        return all(map(_LINE.fullmatch, lines)) or (is_alone and all(map(_NUMBERS.fullmatch, lines)))

    def read_files(self, item: Item, files: Mapping[str, Path], image: Pixels | None) -> Parts:
        """Read the objects of an image."""
        [(file, path)] = files.items()
        size = self._size_of(item, file) if image is None else (image.shape[0], image.shape[1])
        masks: dict[Key, AnyMask] = {}
        labels: dict[Key, str] = {}
        unusable: dict[Key, str] = {}
        for place, line in enumerate(_lines_of(path)):
            number, shares = _split(line, f"{file}, line {place + 1}")
            if number not in self._classes.names:
                hint = f"name it in {self._classes.origin}, or with --classes"
                raise MaskError(f"class {number} has no name", subject=f"{file}, line {place + 1}", hint=hint)
            labels[place] = self._classes.names[number]
            try:
                masks[place] = self._draw(shares, size, image)
            except MaskError as error:
                unusable[place] = f"line {place + 1} ({labels[place]}): {error}"
        return Parts(size=size, masks=masks, labels=labels, prompts=self._classes.prompts, unusable=unusable)

    def _draw(self, shares: list[float], size: tuple[int, int], image: Pixels | None) -> AnyMask:
        if len(shares) == 4:
            if not self.place.options.boxes or image is None:
                raise MaskError("it has a box and no polygon", hint="--boxes refines it from its box")
            x, y, width, height = shares
            edges = ((x - width / 2) * size[1], (y - height / 2) * size[0], (x + width / 2) * size[1])
            return coarse_from_marks(image, Marks(boxes=[Box(*edges, (y + height / 2) * size[0])]))
        if len(shares) < 6 or len(shares) % 2:
            raise MaskError(expected="three corners or more", got=f"{len(shares)} numbers", hint=_HINT)
        return draw_pieces([_to_pixels(shares, size)], size)

    def _size_of(self, item: Item, name: str) -> tuple[int, int]:
        found = find_image(self.place.images, item.name) if self.place.images else None
        if found is None:
            message = f"the image {item.name!r} is not there, and its text does not say how large it is"
            raise ImageError(message, subject=name, hint="--images names the folder of the images")
        width, height = open_image(read_bytes(found), str(found)).size
        return height, width

    def write_file(self, file: str, source: Path, target: Path, results: Mapping[Key, MaskResult]) -> None:
        """Write the lines again, with those of a refined object in place of its own."""
        written: list[str] = []
        for place, line in enumerate(_lines_of(source)):
            if place in results:
                mask = results[place].mask
                number = line.split(maxsplit=1)[0]
                pieces = split_into_pieces(mask)
                written += [" ".join([number, *_to_shares(piece, mask.shape)]) for piece in pieces]
            else:
                written.append(line)
        write_whole(target, "".join(f"{line}\n" for line in written).encode())

    def finish(self, output: Path) -> None:
        """Copy the file of names, without which the lines mean nothing."""
        for name in ("data.yaml", "data.yml", "dataset.yaml", "classes.txt"):
            if (source := self.place.root / name).is_file():
                write_whole(output / name, read_bytes(source))


def _lines_of(path: Path) -> list[str]:
    """The lines of a file that are not empty.

    Raises:
        ImageError: the file cannot be read.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ImageError(f"it cannot be read: {error}", subject=path, hint="write it again") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _split(line: str, where: str) -> tuple[int, list[float]]:
    """The class's number and the other numbers of a line."""
    number, *words = line.split()
    try:
        shares = [float(word) for word in words]
    except ValueError:
        shares = []
    found = _CLASS.fullmatch(number)
    if not found or not shares or not all(-0.01 <= share <= 1.01 for share in shares):
        raise MaskError(
            subject=where, expected="a class number and shares from 0 to 1", got=f"{line!r:.60}", hint=_HINT
        )
    return int(found[1]), shares


def _to_pixels(shares: list[float], size: tuple[int, int]) -> list[Pixel]:
    """The pixels that hold the corners of a polygon."""
    pairs = zip(shares[::2], shares[1::2], strict=True)
    return [(min(max(int(x * size[1]), 0), size[1] - 1), min(max(int(y * size[0]), 0), size[0] - 1)) for x, y in pairs]


def _to_shares(piece: list[Pixel], size: tuple[int, ...]) -> list[str]:
    """The middles of pixels, in shares of the size."""
    return [f"{share:.7g}" for x, y in piece for share in ((x + 0.5) / size[1], (y + 0.5) / size[0])]
