"""COCO JSON: annotations with polygons or run lengths in, with run lengths out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from segrefine.datasets.coco_file import (
    HINT,
    LEFT_OUT,
    UnusableMask,
    find_file,
    images_of,
    key_of,
    label_of,
    read_annotation,
    read_coco,
)
from segrefine.datasets.items import Floats, Item, LabelledMask, PassedOver, Pixels, Reading
from segrefine.datasets.polygons import Mask
from segrefine.errors import MaskError
from segrefine.runtime.marks import Box, Marks, coarse_from_marks
from segrefine.runtime.mask import CoarseMask, has_border
from segrefine.runtime.output import write_whole
from segrefine.runtime.refinement import Refinement
from segrefine.runtime.rle import encode_rle
from segrefine.storage import output_errors

RESULT, PARTS = "annotations.json", "parts"


class CocoDataset:
    """The images and annotations of one COCO JSON file. Each image's annotations are refined jointly, as instances.

    The file is read when its items are first asked for: a process that is handed its items never reads it.

    Args:
        file: the JSON.
        images: folder of the images; None for the JSON's own, or `images` beside it.
        boxes: whether an annotation that has a box and no mask is refined from its box.
    """

    def __init__(self, file: Path, images: Path | None = None, *, boxes: bool = False) -> None:
        self._file = file
        self._root = images or images_of(file)
        self._boxes = boxes

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
            raise MaskError(f"{self._file} lists no image", hint=HINT)
        return items

    def _list_items(self) -> Iterator[Item]:
        annotations: dict[str | None, list[dict[str, Any]]] = {}
        for annotation in self._content["annotations"]:
            annotations.setdefault(key_of(annotation["image_id"]), []).append(annotation)
        labels = {key_of(category["id"]): category["name"] for category in self._content["categories"]}
        keys = [str(key_of(image["id"])) for image in self._content["images"]]
        times = Counter(keys)
        for place, (name, image) in enumerate(zip(keys, self._content["images"], strict=True)):
            file, problem = find_file(self._root, image["file_name"])
            own = annotations.pop(name, [])
            masks = tuple((labels.get(key_of(each.get("category_id"))), each) for each in own)
            if times[name] > 1:  # nobody knows which annotations are whose; nor are results of either that are there
                problem = f"{times[name]} images have the id {name}", "give every image its own id"
                name, masks = f"{name}, as entry {place}", ()
            stated = image.get("height"), image.get("width")
            yield Item(name=name, root=self._root, image=file, masks=masks, problem=problem, stated=stated)
        listed = set(keys)
        for number, orphans in annotations.items():
            if number not in listed:
                problem = f"{len(orphans)} annotations are of image {number}, which is not listed", "add it to images"
                yield Item(name=f"unknown image {number}", root=self._root, image="", problem=problem)

    def pass_over(self) -> PassedOver:
        """Nothing: annotations without an image are items that fail."""
        return PassedOver()

    def read(self, item: Item, image: Pixels) -> Reading:
        """Read the masks of an image's annotations.

        An annotation has nothing to refine if it has no pixel, as a polygon smaller than one, or all of them.
        """
        masks, unusable, left = [], [], 0
        for place, (label, annotation) in enumerate(item.masks):
            label = label_of(label, annotation)
            try:
                mask = self._read_mask(annotation, image)
            except UnusableMask as error:
                unusable.append(str(error))
                continue
            if has_border((mask.probability if isinstance(mask, CoarseMask) else mask) > 0.5):
                masks.append(LabelledMask(key=place, label=label, mask=mask, annotation=annotation.get("id")))
            else:
                left += 1
        return Reading(masks=masks, left=left, unusable=unusable)

    def _read_mask(self, annotation: Mapping[str, Any], image: Pixels) -> Floats | CoarseMask:
        try:
            return read_annotation(annotation, (image.shape[0], image.shape[1])).astype(np.float32)
        except UnusableMask:
            if not self._boxes or not annotation.get("bbox"):
                raise
        return _coarse_from_box(annotation, image)

    def is_done(self, item: Item, output: Path) -> bool:
        """Whether the annotations of an image are in `output`."""
        return _part_of(item, output).is_file()

    def write(self, item: Item, results: Mapping[str | int, Refinement], size: tuple[int, int], output: Path) -> None:
        """Write the annotations of an image, with their refined masks; what was not refined stays as it is.

        Refined masks are disjoint, but for those that the guard kept coarse, and annotations need not be: pixels that
        several had stay with all who still claim them, so that an object in front of another does not vanish.
        """
        coarse = [_coarse_or_nothing(annotation, size) for _, annotation in item.masks]
        claims = np.zeros(size, np.uint16)
        for own in coarse:
            claims += own
        shared = claims > 1
        written = []
        for place, ((_, annotation), own) in enumerate(zip(item.masks, coarse, strict=True)):
            refined = {}
            if result := results.get(place):
                refined = _describe(result.mask | (shared & own & (result.probability > 0.5)))
            written.append({**annotation, **refined})
        file = _part_of(item, output)
        with output_errors(file):
            file.parent.mkdir(exist_ok=True)
        write_whole(file, json.dumps(written).encode())

    def finish(self, output: Path) -> None:
        """Joins the images that were refined, and their annotations, to one COCO JSON.

        Those that failed are left out as images too, or they would look like images with nothing in them; the JSON
        lists their ids as `left_out`. Annotations name their image and category as the lists do: other readers take 1
        and "1" for two ids.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        left_out: list[Any] = []
        categories = {key_of(category["id"]): category["id"] for category in self._content["categories"]}
        for item, image in zip_longest(self.items, self._content["images"]):  # then the images that are not listed
            part = _part_of(item, output)
            if part.is_file():
                images.append(image)
                for annotation in json.loads(part.read_text("utf-8")):
                    category = key_of(annotation.get("category_id"))
                    links = {"category_id": categories[category]} if category in categories else {}
                    annotations.append(annotation | {"image_id": image["id"]} | links)
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


def _coarse_from_box(annotation: Mapping[str, Any], image: Pixels) -> CoarseMask:
    """The coarse mask of an annotation's box: x, y, width and height in pixels.

    Raises:
        UnusableMask: it is no such box, or lies outside of the image.
    """
    box, name = annotation["bbox"], f"annotation {annotation.get('id')}"
    numbers = isinstance(box, list) and len(box) == 4 and all(type(each) in (int, float) for each in box)
    if not numbers:
        hint = "a box is a list of four numbers: x, y, width, height"
        raise UnusableMask(f"{name}: expected a box of four numbers, got {box!r:.60}", hint=hint)
    x, y, width, height = box
    try:
        return coarse_from_marks(image, Marks(boxes=[Box(x, y, x + width, y + height)]))
    except MaskError as error:
        raise UnusableMask(f"{name}: {error}", hint=error.hint) from error


def _coarse_or_nothing(annotation: Mapping[str, Any], size: tuple[int, int]) -> Mask:
    try:
        return read_annotation(annotation, size)
    except UnusableMask:
        return np.zeros(size, np.bool_)


def _describe(mask: Mask) -> dict[str, Any]:
    """What an annotation says of its mask; the box is x, y, width, height in pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = [0, 0, 0, 0]
    if rows.size:
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    area = int(np.count_nonzero(mask))
    return {"segmentation": encode_rle(mask), "area": area, "bbox": [float(edge) for edge in box]}
