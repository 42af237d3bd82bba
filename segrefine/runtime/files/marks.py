"""Coarse masks from boxes, points and scribbles: what they say for certain, and a probability for all the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.errors import MaskError
from segrefine.runtime.files.image import ImageLike, as_image, name_of
from segrefine.runtime.files.mask import CoarseMask, read_stored
from segrefine.runtime.imaging.affinity import spread
from segrefine.runtime.imaging.filters import Floats, gaussian_blur

BOX_SLACK = 0.08
"""A box may have been drawn so much too tight, as a share of its sides: beyond that, all is background."""
_WORKING_SIDE = 128
_MOST_CERTAIN = 0.95
_REACH = 0.12
"""Distance from a lone seed, as a share of the image's diagonal, at which object and background are equally likely."""
_SMOOTHNESS, _CONTRAST, _SEED_WEIGHT = 1000.0, 0.2, 100.0
"""Of the walk, see `spread`; these three and the reach: measured on validation scenes, `docs/scale.md`."""


class Box(NamedTuple):
    """A rectangle around the object: edges in pixels, x to the right and y down, from the image's upper left corner."""

    left: float
    top: float
    right: float
    bottom: float


class Point(NamedTuple):
    """A place on the object, or, where not `foreground`, off it; in pixels as those of `Box`."""

    x: float
    y: float
    foreground: bool = True


Mark = TypeVar("Mark", Box, Point)


@dataclass(frozen=True, kw_only=True, eq=False)
class Marks:
    """Marks of one object, by a person or a detector.

    Attributes:
        boxes: around the object, or around its parts; plain tuples of as many numbers serve too.
        points: on it and off it; likewise.
        scribble: int8 (H, W), 1 on strokes over the object, -1 on strokes over background, 0 elsewhere; or None.
    """

    boxes: Sequence[Box | tuple[float, float, float, float]] = ()
    points: Sequence[Point | tuple[float, float] | tuple[float, float, bool]] = ()
    scribble: NDArray[np.int8] | None = field(default=None, repr=False)


def coarse_from_marks(image: ImageLike, marks: Marks) -> CoarseMask:
    """The coarse mask that marks amount to.

    Certain are the strokes, the points (a disc of a two-hundredth of the image's diagonal around each), and that what
    lies outside of all boxes is background. The rest is the confusion area: its probability is that of an ellipse in
    each box, or without a box of nearness to the strokes and points, evened out along regions of like colour with all
    that is certain held fast (a random walk with a prior, Grady 2005).

    Args:
        image: a picture, as `as_image` takes it.
        marks: at least one box, or a foreground point or stroke.

    Raises:
        ImageError: the image cannot be read.
        MaskError: there are no such marks, one is of another type or lies outside of the image, or they leave no pixel
            open; or they contradict each other: a pixel is marked on and off the object, or one on it lies outside of
            all boxes.
    """
    pixels = as_image(image)
    size = pixels.shape[0], pixels.shape[1]
    boxes, points, strokes = _named(Box, marks.boxes), _named(Point, marks.points), _check_strokes(marks.scribble, size)
    seeds = _draw_seeds(points, strokes)
    if not boxes and not (seeds > 0).any():
        raise MaskError("nothing marks the object", hint="give a box, or a point or a stroke on the object")
    prior = None
    if boxes:
        prior, inside = _draw_boxes(boxes, size)
        _check_inside(points, strokes, inside)
        seeds[~inside] = -1
    confusion = seeds == 0
    if not confusion.any():
        raise MaskError("the marks leave no pixel open", hint="strokes and points should cover parts, not everything")
    walked = _walk(pixels, prior, seeds)
    if not (seeds > 0).any():  # on even ground all of it goes to what is around; the object is in the box, though
        walked = walked / max(float(walked[confusion].max()), 1e-6)
    walked = walked.clip(1 - _MOST_CERTAIN, _MOST_CERTAIN)
    certain = (seeds > 0).astype(np.float32)
    return CoarseMask(probability=np.where(confusion, walked, certain), confusion=confusion)


def read_scribble(source: str | Path | bytes, size: tuple[int, int]) -> NDArray[np.int8]:
    """Strokes from a file: int8 (H, W), 1 on the object, -1 on background, 0 where nothing is said.

    What a file means:

    - an alpha channel that is not constant: transparent says nothing; opaque light is object, opaque dark background;
    - grey, 8 or 16 bits: white is object, black background, the middle third says nothing;
    - palette: its colours and their transparency, as above;
    - `.npy` of whole numbers: 1, -1 and 0, as above.

    Args:
        source: a picture file or `.npy`, or its bytes.
        size: (H, W) of the image.

    Raises:
        ImageError: `source` is missing, empty, a folder, damaged or too large.
        MaskError: it is of another size, is no such drawing, or says something of every pixel or of none.
    """
    name, stored = name_of(source), read_stored(source)
    strokes = _strokes_of_array(stored, name) if isinstance(stored, np.ndarray) else _strokes_of_picture(stored, name)
    if strokes.shape != size:
        expected, got = ("×".join(map(str, reversed(shape))) for shape in (size, strokes.shape))
        raise MaskError(
            subject=name, expected=f"{expected} pixels, as the image", got=got, hint="draw on the image itself"
        )
    if not strokes.any():
        raise MaskError("there is no stroke in it", subject=name, hint="white on the object, black on background")
    if strokes.all():
        message = "every pixel is a stroke, none says nothing"
        raise MaskError(
            message, subject=name, hint="leave the rest transparent or grey (128); a whole mask is given as MASK"
        )
    return strokes


def _strokes_of_array(stored: NDArray[np.generic], name: str | None) -> NDArray[np.int8]:
    if stored.ndim != 2 or stored.dtype.kind not in "iu" or not np.isin(stored, (-1, 0, 1)).all():
        raise MaskError(
            subject=name,
            expected="whole numbers -1, 0 and 1 (H, W)",
            got=f"{stored.dtype} {stored.shape}",
            hint="1 on the object, -1 on background, 0 elsewhere",
        )
    return stored.astype(np.int8)


def _strokes_of_picture(picture: Image.Image, name: str | None) -> NDArray[np.int8]:
    if picture.mode == "P" or (picture.has_transparency_data and not picture.mode.startswith("I")):
        picture = picture.convert("RGBA")
    if picture.mode in ("LA", "RGBA") and np.ptp(alpha := np.asarray(picture.getchannel("A"))):
        light = np.asarray(picture.convert("L")) >= 128
        return np.where(alpha >= 128, np.where(light, 1, -1), 0).astype(np.int8)
    colours = np.asarray(picture.convert("RGB")) if picture.mode in ("RGB", "RGBA") else None
    if colours is not None and np.ptp(colours, axis=2).any():
        hint = "white on the object, black on background, the rest transparent or grey (128)"
        raise MaskError(subject=name, expected="grey or transparent strokes", got="colours", hint=hint)
    grey = np.asarray(picture) if picture.mode.startswith("I") else np.asarray(picture.convert("L"))
    share = grey / (65535 if grey.max(initial=0) > 255 else 255)
    return (np.int8(1) * (share > 2 / 3) - np.int8(1) * (share < 1 / 3)).astype(np.int8)


def _named(kind: type[Mark], given: Sequence[Any]) -> list[Mark]:
    """Boxes, or points, of what stands for them: tuples, or the rows of an array."""
    try:
        each: list[list[Any]] = [[float(number) for number in numbers] for numbers in given]
        return [kind(*numbers) for numbers in each]
    except (TypeError, ValueError) as error:
        name, fields = kind.__name__, ", ".join(kind._fields)
        hint = f"a list, also of one: [{name}(...)], or tuples of as many numbers"
        raise MaskError(expected=f"a list of {name}({fields})", got=f"{given!r:.200}", hint=hint) from error


def _check_strokes(scribble: NDArray[np.int8] | None, size: tuple[int, int]) -> NDArray[np.int8]:
    """The strokes, int8 (H, W), which may be none at all."""
    if scribble is None:
        return np.zeros(size, np.int8)
    strokes = _strokes_of_array(np.asarray(scribble), "the strokes")
    if strokes.shape != size:
        raise MaskError(
            expected=f"strokes {size} as the image", got=strokes.shape, hint="draw them on the image itself"
        )
    return strokes


def _draw_seeds(points: Sequence[Point], strokes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Draw the certain pixels: int8 (H, W), 1 on the object, -1 on background; strokes go above discs."""
    size, drawn, discs = strokes.shape, strokes.copy(), np.zeros_like(strokes)
    rows, columns = np.ogrid[: size[0], : size[1]]
    radius = max(0.5, math.hypot(*size) / 200)
    for point in points:
        if not (0 <= point.x < size[1] and 0 <= point.y < size[0]):
            message = f"the point {point.x:g},{point.y:g} lies outside of the image, {size[1]}×{size[0]} pixels"
            raise MaskError(message, hint="points are x,y in pixels, from the upper left corner")
        pixel, side = (int(point.y), int(point.x)), 1 if point.foreground else -1
        if drawn[pixel] == -side:
            message = f"the pixel of the point {point.x:g},{point.y:g} is marked both on and off the object"
            raise MaskError(message, hint="take one of the two marks away")
        drawn[pixel] = side
        discs[np.hypot(columns + 0.5 - point.x, rows + 0.5 - point.y) <= radius] = side
    return np.where(drawn, drawn, discs)


def _check_inside(points: Sequence[Point], strokes: NDArray[np.int8], inside: NDArray[np.bool_]) -> None:
    """Checks that what is marked on the object is in a box: `inside`, bool (H, W); it could not stay as drawn."""
    hint = "everything outside of the boxes is background: draw a larger box, or another one"
    for point in points:
        if point.foreground and not inside[int(point.y), int(point.x)]:
            raise MaskError(f"the point {point.x:g},{point.y:g}, on the object, lies outside of all boxes", hint=hint)
    lost = (strokes > 0) & ~inside
    if lost.any():
        y, x = np.argwhere(lost)[0]
        raise MaskError(f"a stroke on the object lies outside of all boxes, such as at {x},{y}", hint=hint)


def _draw_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> tuple[Floats, NDArray[np.bool_]]:
    """Probability by the boxes alone, float32 (H, W), and the pixels that they leave open, bool (H, W)."""
    prior, inside = np.zeros(size, np.float32), np.zeros(size, np.bool_)
    y, x = np.ogrid[0.5 : size[0], 0.5 : size[1]]
    for box in boxes:
        _check_box(box, size)
        across = np.abs(2 * x - box.left - box.right) / (box.right - box.left)
        down = np.abs(2 * y - box.top - box.bottom) / (box.bottom - box.top)
        inside |= np.maximum(across, down) <= 1 + 2 * BOX_SLACK
        # One half on the ellipse that touches the box's sides, and falling steeply there.
        fall = np.clip(3 * (1 - np.hypot(across, down)), -3, 3)
        prior = np.maximum(prior, (1 / (1 + np.exp(-fall))).astype(np.float32))
        row = (max(box.top, 0) + min(box.bottom, size[0])) / 2
        column = (max(box.left, 0) + min(box.right, size[1])) / 2
        inside[int(row), int(column)] = True  # of a box that is smaller than a pixel, too
    return prior, inside


def _check_box(box: Box, size: tuple[int, int]) -> None:
    described = f"the box {','.join(f'{edge:g}' for edge in box)}"
    if not (all(map(math.isfinite, box)) and box.left < box.right and box.top < box.bottom):
        raise MaskError(f"{described} has no area", hint="expected left,top,right,bottom in pixels, left < right")
    if min(box.right, size[1]) <= max(box.left, 0) or min(box.bottom, size[0]) <= max(box.top, 0):
        message = f"{described} lies outside of the image, {size[1]}×{size[0]} pixels"
        raise MaskError(message, hint="expected left,top,right,bottom in pixels, from the upper left corner")


def _walk(image: NDArray[np.uint8], prior: Floats | None, seeds: NDArray[np.int8]) -> Floats:
    """Probability (H, W) where seeds pull along regions of like colour; without a prior, that of nearness to them."""
    scale = min(1.0, _WORKING_SIDE / max(seeds.shape))
    size = max(1, round(seeds.shape[1] * scale)), max(1, round(seeds.shape[0] * scale))
    on, off = (_shrink((seeds == side).astype(np.float32), size) for side in (1, -1))
    expected = _nearness(on, off) if prior is None else _shrink(prior, size)
    seeded = on + off > 0
    weights = np.where(seeded, np.float32(_SEED_WEIGHT), np.float32(1))
    values = np.where(seeded, on / np.maximum(on + off, 1e-6), expected).astype(np.float32)
    walked = spread(image, values, smoothness=_SMOOTHNESS, contrast=_CONTRAST, weights=weights)
    full = Image.fromarray(walked).resize(seeds.shape[::-1], Image.Resampling.BILINEAR)
    return np.asarray(full, np.float32)


def _nearness(on: Floats, off: Floats) -> Floats:
    """Probability by distance to the seeds alone, float32 (h, w): one half at `_REACH` of a lone seed."""
    sigma = _REACH * math.hypot(*on.shape)
    near, far = (gaussian_blur((each > 0).astype(np.float32), sigma) for each in (on, off))
    return np.asarray(near / (near + far + np.exp(-0.5) * near.max()), np.float32)


def _shrink(values: Floats, size: tuple[int, int]) -> Floats:
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX), np.float32)
