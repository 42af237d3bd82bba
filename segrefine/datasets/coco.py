"""COCO JSON: annotations with polygons or run lengths in, with run lengths out."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from segrefine.datasets.items import Item, LabelledMask, PassedOver, check_size
from segrefine.datasets.polygons import Mask, draw_polygons
from segrefine.errors import MaskError
from segrefine.runtime.mask import has_border
from segrefine.runtime.output import write_whole
from segrefine.runtime.pipeline import Refinement
from segrefine.runtime.rle import decode_rle, encode_rle
from segrefine.storage import is_safe, output_errors, read_json_object

RESULT, PARTS, LEFT_OUT = "annotations.json", "parts", "left_out"
_NUMBERS = ("id", "category_id")
_HINT = "see https://cocodataset.org/#format-data"


class CocoDataset:
    """The images and annotations of one COCO JSON file. Each image's annotations are refined jointly, as instances.

    The file is read when its items are first asked for: a process that is handed its items never reads it.

    Args:
        file: the JSON.
        images: folder of the images; None for the JSON's own, or `images` beside it.
    """

    def __init__(self, file: Path, images: Path | None = None) -> None:
        self._file = file
        self._root = images or images_of(file)

    @cached_property
    def _content(self) -> dict[str, Any]:
        return read_coco(self._file)

    @cached_property
    def items(self) -> list[Item]:
        """Its images; also one for every annotation of an image that is not there.

        Raises:
            MaskError: the file is no COCO JSON, or lists no image.
        """
        items = list(self._list_items())
        if not items:
            raise MaskError(f"{self._file} lists no image", hint=_HINT)
        return items

    def _list_items(self) -> Iterator[Item]:
        annotations: dict[Any, list[dict[str, Any]]] = {}
        for annotation in self._content["annotations"]:
            annotations.setdefault(annotation.get("image_id"), []).append(annotation)
        names = {category["id"]: category["name"] for category in self._content["categories"]}
        times = Counter(str(image["id"]) for image in self._content["images"])
        for place, image in enumerate(self._content["images"]):
            number, name, file = image["id"], str(image["id"]), str(image.get("file_name"))
            masks = tuple((names.get(each.get("category_id")), each) for each in annotations.pop(number, []))
            problem = None
            if times[name] > 1:  # nobody knows which annotations are whose; nor are results of either that are there
                problem = f"{times[name]} images have the id {number}", "give every image its own id"
                name, masks = f"{number}, as entry {place}", ()
            elif not is_safe(file):
                problem = f"the file name {file!r} leaves the folder of images", "paths are relative to it"
            stated = image.get("height"), image.get("width")
            yield Item(name=name, root=self._root, image=file, masks=masks, problem=problem, stated=stated)
        for number, orphans in annotations.items():
            problem = f"{len(orphans)} annotations are of image {number!r}, which is not listed", "add it to images"
            yield Item(name=f"unknown image {number!r}", root=self._root, image="", problem=problem)

    def pass_over(self) -> PassedOver:
        """Nothing: annotations without an image are items that fail."""
        return PassedOver()

    def read(self, item: Item, size: tuple[int, int]) -> list[LabelledMask]:
        """The labels and masks of an image's annotations, those left out that have nothing to refine.

        These are annotations without a pixel, as polygons smaller than one are, and such of the whole image.
        """
        drawn = ((label_of(label, each), read_annotation(each, size)) for label, each in item.masks)
        return [(label, mask.astype(np.float32)) for label, mask in drawn if has_border(mask)]

    def is_done(self, item: Item, output: Path) -> bool:
        """Whether the annotations of an image are in `output`."""
        return _part_of(item, output).is_file()

    def write(self, item: Item, results: Sequence[tuple[str, Refinement]], size: tuple[int, int], output: Path) -> None:
        """Writes the annotations of an image, with their refined masks; what had nothing to refine stays as it is.

        Refined masks are disjoint, but for those that the guard kept coarse, and annotations need not be: pixels that
        several had stay with all who still claim them, so that an object in front of another does not vanish.
        """
        left, written = deque(results), []
        coarse = [read_annotation(annotation, size) for _, annotation in item.masks]
        claims = np.zeros(size, np.uint16)
        for own in coarse:
            claims += own
        shared = claims > 1
        for (_, annotation), own in zip(item.masks, coarse, strict=True):
            refined = {}
            if has_border(own):
                result = left.popleft()[1]
                refined = _describe(result.mask | (shared & own & (result.probability > 0.5)))
            written.append({**annotation, **refined})
        file = _part_of(item, output)
        with output_errors(file):
            file.parent.mkdir(exist_ok=True)
        write_whole(file, json.dumps(written).encode())

    def finish(self, output: Path) -> None:
        """Joins the images that were refined, and their annotations, to one COCO JSON.

        Those that failed are left out as images too, or they would look like images with nothing in them; the JSON
        lists their ids as `left_out`.
        """
        images, annotations, left_out = [], [], []
        for item, image in zip_longest(self.items, self._content["images"]):  # then the images that are not listed
            part = _part_of(item, output)
            if part.is_file():
                images.append(image)
                annotations += json.loads(part.read_text("utf-8"))
            elif image:
                left_out.append(image["id"])
        left_out = list(dict.fromkeys(left_out))  # an id that two images have is listed once
        joined = self._content | {"images": images, "annotations": annotations, LEFT_OUT: left_out}
        if not left_out:
            del joined[LEFT_OUT]
        write_whole(output / RESULT, json.dumps(joined).encode())


def _part_of(item: Item, output: Path) -> Path:
    """The file of an image's annotations; its id may be any text, and must not lead elsewhere."""
    return output / PARTS / f"{quote(item.name, safe=' ', errors='surrogatepass')}.json"


def images_of(file: Path) -> Path:
    """The folder of a COCO JSON's images, where nobody names another: `images` beside it, or its own."""
    return beside if (beside := file.parent / "images").is_dir() else file.parent


def read_coco(file: Path) -> dict[str, Any]:
    """What a COCO JSON holds: lists of images, annotations and categories, each with what is needed of it.

    Raises:
        MaskError: the file is no COCO JSON.
    """
    content = read_json_object(file, MaskError, hint=_HINT)
    for key, needed in (("images", {"id", "file_name"}), ("annotations", {"image_id"}), ("categories", {"id", "name"})):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise MaskError(f"{file} has no list of {key}", hint=_HINT)
        for each in entries:
            if missing := sorted(needed - each.keys()):
                raise MaskError(f"{file}: an entry of {key} has no {missing[0]}", hint=_HINT)
            if not all(isinstance(each[name], int | str) for name in needed):
                raise MaskError(f"{file}: an entry of {key} has something else than numbers and names", hint=_HINT)
    given = (each.get(name) for each in content["annotations"] for name in _NUMBERS)
    if not all(isinstance(each, int | float | str | None) for each in given):
        raise MaskError(f"{file}: an annotation's {' or '.join(_NUMBERS)} is neither a number nor text", hint=_HINT)
    numbers = [category["id"] for category in content["categories"]]
    if twice := sorted({str(number) for number in numbers if numbers.count(number) > 1}):
        raise MaskError(f"{file}: two categories have the id {twice[0]}", hint="give every category its own id")
    return content


def label_of(label: str | None, annotation: Mapping[str, Any]) -> str:
    """The label of an annotation, if its category has one.

    Raises:
        MaskError: it has none.
    """
    if label is None:
        message = f"annotation {annotation.get('id')}: category {annotation.get('category_id')!r} is not listed"
        raise MaskError(message, hint="add it to categories")
    return label


def read_annotation(annotation: Mapping[str, Any], size: tuple[int, int]) -> Mask:
    """The mask, bool (H, W), of an annotation of an image of that size (H, W).

    Raises:
        MaskError: it has none that fits the image.
    """
    name, drawn = f"annotation {annotation.get('id')}", annotation.get("segmentation")
    try:
        mask = draw_polygons(drawn, size) if isinstance(drawn, list) else decode_rle(drawn)
    except MaskError as error:
        raise MaskError(f"{name}: {error}", hint=error.hint) from error
    check_size(mask.shape, size, name)
    return mask


def _describe(mask: Mask) -> dict[str, Any]:
    """What an annotation says of its mask; the box is x, y, width, height in pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = [0, 0, 0, 0]
    if rows.size:
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    area = int(np.count_nonzero(mask))
    return {"segmentation": encode_rle(mask), "area": area, "bbox": [float(edge) for edge in box]}
