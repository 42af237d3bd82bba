"""Functions for CVAT: an interactor that makes masks of points and boxes, and a detector that finds labels by name.

CVAT runs serverless functions by nuclio. The folders `interactor` and `detector` in `integrations/cvat` of the
repository hold what nuclio deploys; their `main.py` only names a function of this module.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.datasets.pieces import split_into_pieces
from segrefine.errors import ImageError, MaskError, SegrefineError
from segrefine.integrations.masks import MaskMaker
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.marks import Box, Marks, Point, coarse_from_marks
from segrefine.runtime.named_mask import box_of

OBJECT = "object"
"""The label of what is marked: CVAT does not tell an interactor which label the user has chosen."""
_Body = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Interactor:
    """Makes a mask of points and a box.

    Attributes:
        maker: makes the masks.
        label: what the marked object is called.
        preset: name of a preset of the settings.
    """

    maker: MaskMaker
    label: str = OBJECT
    preset: str | None = None

    def __call__(self, body: _Body) -> dict[str, Any]:
        """CVAT's answer: `mask`, rows of 0 and 1, and `points`, a polygon around the largest part.

        Args:
            body: `image` in base64, `pos_points` and `neg_points` as pairs of pixels, and `obj_bbox`, two corners.

        Raises:
            ImageError: the image cannot be read.
            MaskError: nothing marks the object, or the marks do not fit the image.
        """
        image = read_image(body)
        coarse = coarse_from_marks(image, read_marks(body))
        [result] = self.maker.refine(image, [(self.label, coarse)], preset=self.preset)
        return {"points": outline(result.mask), "mask": result.mask.astype(int).tolist()}


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Finds the labels of a function by their names.

    Attributes:
        maker: makes the masks.
        labels: what to look for, as `spec` in function.yaml lists them.
    """

    maker: MaskMaker
    labels: tuple[str, ...]

    def __call__(self, body: _Body) -> list[dict[str, Any]]:
        """CVAT's answer: a mask for each label that is found with the confidence asked for.

        Args:
            body: `image` in base64, and perhaps `threshold`, the least confidence.

        Raises:
            ImageError: the image cannot be read.
        """
        image = read_image(body)
        found: Sequence[Any] = self.maker.find(image, self.labels)
        threshold = float(body.get("threshold") or 0)
        sure = [(label, each) for label, each in zip(self.labels, found, strict=True) if each.confidence >= threshold]
        return [
            {"confidence": f"{each.confidence:.4f}", "label": label, "type": "mask", "points": outline(each.mask),
             "mask": crop_mask(each.mask)}
            for label, each in sure if each.mask.any()
        ]  # fmt: skip


def answer(context: Any, function: Callable[[_Body], Any], body: _Body) -> Any:
    """A function's answer as nuclio sends it; what is wrong with a request is told with status 400.

    Args:
        context: nuclio's.
        function: an `Interactor` or a `Detector`.
        body: of the request.
    """
    try:
        content, status = function(body), 200
    except SegrefineError as error:
        context.logger.warn(str(error))
        content, status = {"error": f"{error}; {error.hint}" if error.hint else str(error)}, 400
    return context.Response(body=json.dumps(content), headers={}, content_type="application/json", status_code=status)


def read_image(body: _Body) -> NDArray[np.uint8]:
    """The image of a request, uint8 (H, W, 3).

    Raises:
        ImageError: there is none, or it cannot be read.
    """
    try:
        content = base64.b64decode(body["image"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise ImageError(expected="an image in base64 under `image`", got="none", hint="as CVAT sends it") from error
    return load_image(content)


def read_marks(body: _Body) -> Marks:
    """The points and the box of a request.

    Raises:
        MaskError: they are no pairs of numbers.
    """
    try:
        points = [Point(float(x), float(y)) for x, y in body.get("pos_points") or ()]
        points += [Point(float(x), float(y), False) for x, y in body.get("neg_points") or ()]
        boxes = []
        if corners := body.get("obj_bbox"):
            (x0, y0), (x1, y1) = corners
            boxes = [Box(float(min(x0, x1)), float(min(y0, y1)), float(max(x0, x1)), float(max(y0, y1)))]
    except (TypeError, ValueError) as error:
        expected = "points as pairs [x, y], and a box as two of them"
        raise MaskError(expected=expected, got=str(error), hint="see pos_points, neg_points and obj_bbox") from error
    return Marks(boxes=boxes, points=points)


def crop_mask(mask: NDArray[np.bool_]) -> list[int]:
    """A mask, bool (H, W), as CVAT stores it: the pixels of its box, row by row, then the box with its last pixels."""
    left, top, right, bottom = box_of(mask) or (0, 0, 1, 1)
    pixels: list[int] = mask[top:bottom, left:right].astype(int).ravel().tolist()
    return [*pixels, left, top, right - 1, bottom - 1]


def outline(mask: NDArray[np.bool_]) -> list[float]:
    """A polygon x, y, x, y … around the largest part of a mask, bool (H, W); empty where the mask is."""
    if not mask.any():
        return []
    pieces = split_into_pieces(mask)
    return [float(number) for corner in max(pieces, key=_area) for number in corner]


def _area(polygon: Sequence[tuple[float, float]]) -> float:
    x, y = np.array(polygon, float).T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))
