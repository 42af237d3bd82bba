"""COCO JSON: annotations with polygons or run lengths in, with run lengths out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar
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
from segrefine.datasets.items import Floats, Item, Key, MaskResult, Pixels, whole_number
from segrefine.datasets.notation import Notation, Parts, Place
from segrefine.datasets.polygons import Mask
from segrefine.errors import MaskError
from segrefine.runtime.files.marks import Box, Marks, coarse_from_marks
from segrefine.runtime.files.mask import CoarseMask
from segrefine.runtime.files.output import write_whole
from segrefine.runtime.files.rle import encode_rle
from segrefine.storage import output_errors

RESULT, PARTS = "annotations.json", "parts"


class Coco(Notation):
    """The images and annotations of one COCO JSON file. Each image's annotations are refined jointly, as instances.

    The file is read when its items are first asked for: a process that is handed its items never reads it.
    """

    title = "COCO"
    described = "COCO JSON"
    names_classes = False
    is_unmistakable = True
    options: ClassVar[tuple[str, ...]] = ("boxes",)

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether the masks are in one file; a list in it is another notation, which the table has first."""
        return place.masks.is_file()

    @cached_property
    def _content(self) -> dict[str, Any]:
        return read_coco(self.place.masks)

    @property
    def _images(self) -> Path:
        return self.place.images or images_of(self.place.masks)

    @cached_property
    def items(self) -> list[Item]:
        """Its images; also one for every annotation of an image that is not there.

        Raises:
            MaskError: the file is no COCO JSON, or lists no image.
        """
        items = list(self._list_items())
        if not items:
            raise MaskError("it lists no image", subject=self.place.masks, hint=HINT)
        return items

    def _list_items(self) -> Iterator[Item]:
        annotations: dict[str | None, list[dict[str, Any]]] = {}
        for annotation in self._content["annotations"]:
            annotations.setdefault(key_of(annotation["image_id"]), []).append(annotation)
        keys = [str(key_of(image["id"])) for image in self._content["images"]]
        times = Counter(keys)
        for place, (name, image) in enumerate(zip(keys, self._content["images"], strict=True)):
            file, problem = find_file(self._images, image["file_name"])
            masks = tuple((self._label_of(each), each) for each in annotations.pop(name, []))
            if times[name] > 1:  # nobody knows which annotations are whose; nor are results of either that are there
                problem = f"{times[name]} images have the id {name}", "give every image its own id"
                name, masks = f"{name}, as entry {place}", ()
            stated = image.get("height"), image.get("width")
            yield Item(name=name, root=self._images, image=file, masks=masks, problem=problem, stated=stated)
        listed = set(keys)
        for number, orphans in annotations.items():
            if number not in listed:
                problem = f"{len(orphans)} annotations are of image {number}, which is not listed", "add it to images"
                yield Item(name=f"unknown image {number}", root=self._images, image="", problem=problem)

    @cached_property
    def _labels(self) -> dict[str | None, str]:
        return {key_of(category["id"]): category["name"] for category in self._content["categories"]}

    def _label_of(self, annotation: Mapping[str, Any]) -> str | None:
        return self._labels.get(key_of(annotation.get("category_id")))

    @property
    def entries(self) -> dict[str, Item]:
        """Its images by their ids.

        Raises:
            MaskError: two have one id.
        """
        count = len(self._content["images"])
        listed = {item.name: item for item in list(self._list_items())[:count]}
        if len({key_of(image["id"]) for image in self._content["images"]}) < count:
            raise MaskError("two images have one id", subject=self.place.masks, hint="give every image its own id")
        return listed

    @property
    def left_out(self) -> frozenset[str]:
        """Ids of the images that failed in the batch that wrote the file."""
        listed = self._content.get(LEFT_OUT)
        left_out = {str(key_of(each)) for each in listed} if isinstance(listed, list) else set()
        return frozenset(left_out - {key_of(image["id"]) for image in self._content["images"]})

    def identities(self) -> dict[str, tuple[str, str]] | None:
        """Image and label of each annotation by its id; None where ids are missing or come twice."""
        found: dict[str, tuple[str, str]] = {}
        for annotation in self._content["annotations"]:
            number = key_of(annotation.get("id"))
            if number is None or number in found:
                return None
            found[number] = str(key_of(annotation["image_id"])), str(self._label_of(annotation))
        return found

    def read(self, item: Item, image: Pixels | None = None) -> Parts:
        """Read the masks of an image's annotations; see `Notation.read`."""
        size = (image.shape[0], image.shape[1]) if image is not None else self._size_of(item)
        masks: dict[Key, Mask | Floats | CoarseMask] = {}
        labels: dict[Key, str] = {}
        unusable: dict[Key, str] = {}
        numbers: dict[Key, int | str] = {}
        for place, (label, annotation) in enumerate(item.masks):
            labels[place] = label_of(label, annotation)
            if (number := annotation.get("id")) is not None:
                numbers[place] = number
            try:
                masks[place] = self._read_mask(annotation, size, image)
            except UnusableMask as error:
                unusable[place] = str(error)
        return Parts(size=size, masks=masks, labels=labels, numbers=numbers, unusable=unusable)

    def _read_mask(
        self, annotation: Mapping[str, Any], size: tuple[int, int], image: Pixels | None
    ) -> Mask | CoarseMask:
        try:
            return read_annotation(annotation, size)
        except UnusableMask:
            if image is None or not self.place.options.boxes or not annotation.get("bbox"):
                raise
        return _coarse_from_box(annotation, image)

    def _size_of(self, item: Item) -> tuple[int, int]:
        """(H, W) as the image's entry says, or else one of its run lengths."""
        drawn = (annotation.get("segmentation") for _, annotation in item.masks)
        sizes = [list(item.stated), *(each.get("size") for each in drawn if isinstance(each, dict))]
        for size in sizes:
            sides = [whole_number(side) or 0 for side in size] if isinstance(size, list) else []
            if len(sides) == 2 and min(sides) > 0:
                return sides[0], sides[1]
        message = f"it does not say how large image {item.name} is"
        raise MaskError(message, subject=self.place.masks, hint="add height and width to its entry in images")

    def is_done(self, item: Item, output: Path) -> bool:
        """Return whether the annotations of an image are in `output`."""
        return part_of(item, output).is_file()

    def write(self, item: Item, results: Mapping[Key, MaskResult], size: tuple[int, int], output: Path) -> None:
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
        file = part_of(item, output)
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
            part = part_of(item, output)
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


def part_of(item: Item, output: Path) -> Path:
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
        raise UnusableMask(subject=name, expected="a box of four numbers", got=f"{box!r:.60}", hint=hint)
    x, y, width, height = box
    try:
        return coarse_from_marks(image, Marks(boxes=[Box(x, y, x + width, y + height)]))
    except MaskError as error:
        raise UnusableMask(str(error), subject=name, hint=error.hint) from error


def _coarse_or_nothing(annotation: Mapping[str, Any], size: tuple[int, int]) -> Mask:
    try:
        return read_annotation(annotation, size)
    except UnusableMask:
        return np.zeros(size, np.bool_)


def _describe(mask: Mask) -> dict[str, Any]:
    """Describe an annotation's mask; the box is x, y, width, height in pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = [0, 0, 0, 0]
    if rows.size:
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    area = int(np.count_nonzero(mask))
    return {"segmentation": encode_rle(mask), "area": area, "bbox": [float(edge) for edge in box]}
