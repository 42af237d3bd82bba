"""Regions of Label Studio: brushes, rectangles and points as coarse masks, and masks as brushes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import MaskError, SettingsError
from segrefine.integrations.brush import decode_brush, encode_brush
from segrefine.integrations.masks import Pairs
from segrefine.runtime.files.marks import Box, Marks, Point, coarse_from_marks
from segrefine.runtime.named_mask import NamedMask

Region = Mapping[str, Any]
"""One entry of `result` in an annotation or in the context of a request."""
BRUSH, RECTANGLE, POINT, TEXT = "brushlabels", "rectanglelabels", "keypointlabels", "textarea"
_HINT = "draw it again on this image"


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """The parts of a labelling configuration that are used.

    Attributes:
        control: name of the tag `BrushLabels`, which results belong to.
        image: name of the tag `Image`.
        key: the image's place in the data of a task.
        labels: of the brushes.
    """

    control: str
    image: str
    key: str
    labels: tuple[str, ...]

    @classmethod
    def of(cls, parsed: Mapping[str, Any]) -> Labelling:
        """Find them in a configuration as Label Studio parses it.

        Raises:
            SettingsError: no brush labels an image.
        """
        for name, tag in parsed.items():
            image = next((each for each in tag.get("inputs", ()) if each.get("type") == "Image"), None)
            if tag.get("type") == "BrushLabels" and image:
                value = str(image.get("value") or image.get("valueList")).lstrip("$")
                return cls(control=name, image=tag["to_name"][0], key=value, labels=tuple(tag.get("labels", ())))
        hint = 'add <BrushLabels name="tag" toName="image"> with a <Label> for each class'
        raise SettingsError(expected="a labelling configuration with BrushLabels of an Image", got="none", hint=hint)


def read_phrases(regions: Sequence[Region]) -> list[str]:
    """The texts of the text areas among regions: what to look for."""
    texts = (_value_of(each).get("text") for each in regions if each.get("type") == TEXT)
    return [
        line.strip() for text in texts for line in ([text] if isinstance(text, str) else text or ()) if line.strip()
    ]


def read_pairs(regions: Sequence[Region], image: NDArray[np.uint8]) -> Pairs:
    """Labels, each with the coarse mask of one drawn object.

    Each brush and each rectangle is an object. Points belong to the rectangle of their label that they lie in. Points
    of a label without rectangles are one object.

    Args:
        regions: as Label Studio sends them.
        image: uint8 (H, W, 3).

    Raises:
        MaskError: a region is malformed, or was drawn on an image of another size.
    """
    size = image.shape[0], image.shape[1]
    drawn = [each for each in regions if each.get("type") in (BRUSH, RECTANGLE, POINT)]
    for each in drawn:
        _check_size(each, size)
    pairs: list[Any] = [(_label_of(each), _mask_of(each, size)) for each in drawn if each["type"] == BRUSH]
    pairs += [(label, coarse_from_marks(image, marks)) for label, marks in _group_marks(drawn, size)]
    return pairs


def write_regions(results: Sequence[NamedMask], labels: Sequence[str], labelling: Labelling) -> list[dict[str, Any]]:
    """Masks as regions of brushes. An empty mask gives none.

    Args:
        results: what was made.
        labels: of each.
        labelling: the tags that the regions belong to.
    """
    regions = []
    for result, label in zip(results, labels, strict=True):
        mask = result.mask  # type: ignore[attr-defined]  # every result has one
        if not mask.any():
            continue
        regions.append({
            "id": uuid4().hex[:10],
            "type": BRUSH,
            "from_name": labelling.control,
            "to_name": labelling.image,
            "original_width": mask.shape[1],
            "original_height": mask.shape[0],
            "image_rotation": 0,
            "value": {"format": "rle", "rle": encode_brush(mask), BRUSH: [label]},
            "score": _score_of(result),
        })  # fmt: skip
    return regions


def _score_of(result: NamedMask) -> float | None:
    confidence: float | None = result.confidence  # type: ignore[attr-defined]
    return None if confidence is None else round(float(confidence), 4)


def _group_marks(drawn: Sequence[Region], size: tuple[int, int]) -> Iterator[tuple[str, Marks]]:
    """Labels, each with the marks of one object."""
    boxes = [(_label_of(each), _box_of(each, size)) for each in drawn if each["type"] == RECTANGLE]
    points: dict[str, list[Point]] = {}
    for each in drawn:
        if each["type"] == POINT:
            points.setdefault(_label_of(each), []).append(_point_of(each, size))
    for label, box in boxes:
        inside = [p for p in points.get(label, ()) if box.left <= p.x <= box.right and box.top <= p.y <= box.bottom]
        yield label, Marks(boxes=[box], points=inside)
    for label, own in points.items():
        if label not in dict(boxes):
            yield label, Marks(points=own)


def _value_of(region: Region) -> Mapping[str, Any]:
    value = region.get("value")
    return value if isinstance(value, Mapping) else {}


def _label_of(region: Region) -> str:
    labels = _value_of(region).get(region["type"]) or _value_of(region).get("labels")
    if not isinstance(labels, list) or not labels or not isinstance(labels[0], str):
        raise MaskError(expected="a region with a label", got="none", hint="choose a label before you draw")
    return labels[0]


def _check_size(region: Region, size: tuple[int, int]) -> None:
    stated = region.get("original_height"), region.get("original_width")
    if stated != size:
        raise MaskError(
            subject=f"the {region['type'].removesuffix('labels')} of {_label_of(region)!r}",
            expected=f"a region drawn on {size[1]}×{size[0]} pixels, as the image",
            got=f"{stated[1]}×{stated[0]}",
            hint=_HINT,
        )
    if region.get("image_rotation"):
        message = f"the image was turned by {region['image_rotation']}° when it was drawn on"
        raise MaskError(message, hint="turn the image back in Label Studio, and draw again")


def _mask_of(region: Region, size: tuple[int, int]) -> NDArray[np.float32]:
    try:
        return decode_brush(_value_of(region).get("rle") or (), size).astype(np.float32)
    except MaskError as error:
        raise error.about(f"the brush of {_label_of(region)!r}") from error


def _numbers(region: Region, *names: str) -> list[float]:
    found = [_value_of(region).get(name) for name in names]
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in found):
        raise MaskError(expected=f"a region with {', '.join(names)}", got=f"{found}", hint=_HINT)
    return [float(each) for each in found]  # type: ignore[arg-type]


def _box_of(region: Region, size: tuple[int, int]) -> Box:
    """The box of a rectangle, or around a turned one; its numbers are percentages of the image's sides."""
    x, y, width, height = _numbers(region, "x", "y", "width", "height")
    angle = math.radians(float(_value_of(region).get("rotation") or 0))  # around the upper left corner
    left, top, wide, high = x / 100 * size[1], y / 100 * size[0], width / 100 * size[1], height / 100 * size[0]
    right = wide * math.cos(angle), wide * math.sin(angle)
    down = -high * math.sin(angle), high * math.cos(angle)
    xs = [left + a * right[0] + b * down[0] for a in (0, 1) for b in (0, 1)]
    ys = [top + a * right[1] + b * down[1] for a in (0, 1) for b in (0, 1)]
    return Box(min(xs), min(ys), max(xs), max(ys))


def _point_of(region: Region, size: tuple[int, int]) -> Point:
    x, y = _numbers(region, "x", "y")
    inside = [min(share / 100 * side, side - 1e-3) for share, side in ((x, size[1]), (y, size[0]))]
    return Point(inside[0], inside[1], region.get("is_positive") not in (0, False))
