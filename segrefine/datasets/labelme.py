"""LabelMe: for each image a JSON with shapes, beside the image or in the folder of masks."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segrefine.datasets.files import MaskFiles
from segrefine.datasets.items import Item, Key, MaskResult, Pixels, check_size, whole_number
from segrefine.datasets.notation import AnyMask, Parts, Place
from segrefine.datasets.polygons import Mask
from segrefine.errors import MaskError, SegrefineError
from segrefine.runtime.files.image import MEGAPIXELS, open_image
from segrefine.runtime.files.marks import Box, Marks, coarse_from_marks
from segrefine.runtime.files.output import write_whole
from segrefine.storage import read_json_object

_HINT = "shapes are polygons, rectangles, circles or masks"
_MOST_SIDE = 1e6


class LabelMe(MaskFiles):
    """Shapes of LabelMe. Shapes of one label and one `group_id` are one object; a refined one becomes a mask."""

    title = "LabelMe"
    described = "LabelMe JSON"
    is_unmistakable = True
    suffixes = (".json",)
    options = ("boxes",)

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether the first JSON below the folder of masks holds shapes."""
        files = (file for file in place.files if file.lower().endswith(".json"))
        first = next((file for file in files if file not in ("labels.json", "classes.json")), None)
        try:
            return first is not None and "shapes" in _read(place.masks / first)
        except SegrefineError:  # reading the file says so
            return False

    def read_files(self, item: Item, files: Mapping[str, Path], image: Pixels | None) -> Parts:
        """Read the shapes of an image."""
        [(file, path)] = files.items()
        content = _read(path)
        size = _size_of(content, file, image)
        masks: dict[Key, AnyMask] = {}
        labels: dict[Key, str] = {}
        unusable: dict[Key, str] = {}
        for places in _objects_of(content, file):
            shapes, key = [content["shapes"][place] for place in places], places[0]
            labels[key] = _label_of(shapes[0])
            try:
                masks[key] = self._read_object(shapes, size, image)
            except MaskError as error:
                unusable[key] = f"shape {key} ({labels[key]}): {error}"
        return Parts(size=size, masks=masks, labels=labels, unusable=unusable)

    def _read_object(self, shapes: Sequence[Mapping[str, Any]], size: tuple[int, int], image: Pixels | None) -> AnyMask:
        if self.place.options.boxes and image is not None and len(shapes) == 1 and _kind_of(shapes[0]) == "rectangle":
            return coarse_from_marks(image, Marks(boxes=[Box(*_box_of(shapes[0]))]))
        return np.asarray(np.logical_or.reduce([draw_shape(shape, size) for shape in shapes]), np.bool_)

    def write_file(self, file: str, source: Path, target: Path, results: Mapping[Key, MaskResult]) -> None:
        """Write the JSON with a mask for each refined object; an object that has no pixel any more is left out."""
        content = _read(source)
        shapes: dict[int, dict[str, Any]] = dict(enumerate(content["shapes"]))
        for places in _objects_of(content, file):
            if result := results.get(places[0]):
                first = shapes[places[0]]
                for place in places:
                    del shapes[place]
                if result.mask.any():
                    shapes[places[0]] = {**first, **_describe(result.mask)}
        written = {**content, "shapes": [shapes[place] for place in sorted(shapes)]}
        write_whole(target, json.dumps(written, indent=2, ensure_ascii=False).encode())


def draw_shape(shape: Mapping[str, Any], size: tuple[int, int]) -> Mask:
    """The pixels of a shape, bool (H, W), as LabelMe itself draws it.

    Raises:
        MaskError: it is of another kind, or its points do not fit its kind.
    """
    kind = _kind_of(shape)
    if kind == "mask":
        return _decode(shape, size)
    picture = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(picture)
    if kind == "polygon":
        points = _points_of(shape)
        if len(points) < 3:
            raise MaskError(expected="a polygon of three points or more", got=len(points), hint=_HINT)
        draw.polygon(points, outline=1, fill=1)
    elif kind == "rectangle":
        draw.rectangle(_box_of(shape), outline=1, fill=1)
    elif kind == "circle":
        (x, y), (edge_x, edge_y) = _points_of(shape, 2)
        radius = math.hypot(x - edge_x, y - edge_y)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    else:
        raise MaskError(f"a shape of the kind {kind!r:.40} has no area", hint=_HINT)
    return np.array(picture, np.bool_)


def _decode(shape: Mapping[str, Any], size: tuple[int, int]) -> Mask:
    """The pixels of a shape that holds a picture of its box."""
    (left, top), _ = _points_of(shape, 2)
    try:
        encoded = base64.b64decode(shape.get("mask") or "", validate=True)
        pixels = np.asarray(open_image(encoded, "its mask").convert("L")) > 0
    except (TypeError, binascii.Error, SegrefineError) as error:
        raise MaskError(f"its mask is no picture: {error}", hint="label it again") from error
    mask = np.zeros(size, np.bool_)
    x, y = int(left), int(top)
    if x < 0 or y < 0 or y + pixels.shape[0] > size[0] or x + pixels.shape[1] > size[1]:
        raise MaskError("its mask lies outside of the image", hint="label it again")
    mask[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    return mask


def _describe(mask: Mask) -> dict[str, Any]:
    """Describe a shape's mask: a picture of its box, and the box's first and last pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    buffer = io.BytesIO()
    Image.fromarray(mask[top : bottom + 1, left : right + 1]).save(buffer, "PNG")
    corners = [[float(left), float(top)], [float(right), float(bottom)]]
    return {"shape_type": "mask", "points": corners, "mask": base64.b64encode(buffer.getvalue()).decode("ascii")}


def _read(path: Path) -> dict[str, Any]:
    return read_json_object(path, MaskError, hint="save it again with LabelMe")


def _objects_of(content: Mapping[str, Any], name: str) -> list[list[int]]:
    """Places of the shapes of each object: of one label and one group, or a shape alone.

    Raises:
        MaskError: there is no list of shapes, or one has no label.
    """
    shapes = content.get("shapes")
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise MaskError("it has no list of shapes", subject=name, hint="save it again with LabelMe")
    objects: dict[Any, list[int]] = {}
    for place, shape in enumerate(shapes):
        label = _label_of(shape)
        if not label.strip():
            raise MaskError(f"shape {place} has no label", subject=name, hint="label it again")
        group = whole_number(shape.get("group_id"))
        objects.setdefault(place if group is None else (label, group), []).append(place)
    return list(objects.values())


def _label_of(shape: Mapping[str, Any]) -> str:
    """Return the label of a shape, which some tools write as a number; empty if there is none."""
    label = shape.get("label")
    is_said = isinstance(label, str) or (isinstance(label, int) and not isinstance(label, bool))
    return str(label) if is_said else ""


def _kind_of(shape: Mapping[str, Any]) -> Any:
    return shape.get("shape_type") or "polygon"


def _box_of(shape: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a rectangle: of two opposite corners, or of all four, as X-AnyLabeling writes."""
    points = _points_of(shape, 4 if len(shape.get("points") or ()) == 4 else 2)
    columns, rows = zip(*points, strict=True)
    return min(columns), min(rows), max(columns), max(rows)


def _points_of(shape: Mapping[str, Any], count: int | None = None) -> list[tuple[float, float]]:
    points = shape.get("points")
    pairs = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
    if not pairs or not all(type(n) in (int, float) and abs(n) < _MOST_SIDE for point in points or () for n in point):
        raise MaskError(expected="points of two numbers each", got=f"{points!r:.60}", hint=_HINT)
    found = [(float(x), float(y)) for x, y in points or ()]
    if count is not None and len(found) != count:
        raise MaskError(expected=f"{count} points", got=len(found), hint=_HINT)
    return found


def _size_of(content: Mapping[str, Any], name: str, image: Pixels | None) -> tuple[int, int]:
    """(H, W) of the image, which must be that of the JSON where it says so.

    Raises:
        MaskError: they differ, or without the image the JSON does not say it.
    """
    height, width = (whole_number(content.get(f"image{side}")) for side in ("Height", "Width"))
    if image is None:
        if not height or not width or not 0 < height * width <= MEGAPIXELS * 1_000_000 or height < 0:
            hint = f"imageHeight and imageWidth say so; at most {MEGAPIXELS} megapixels"
            raise MaskError("it does not say how large its image is", subject=name, hint=hint)
        return height, width
    if height and width:
        check_size((height, width), (image.shape[0], image.shape[1]), name)
    return image.shape[0], image.shape[1]
