"""Options that mark an object where there is no mask: boxes, points and a file of strokes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.cli.paths import GivenPath

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segrefine.runtime.files.mask import CoarseMask


class Numbers(click.ParamType):  # type: ignore[type-arg]  # click takes no type there before 8.4
    """A fixed number of numbers, separated by commas."""

    name = "numbers"

    def __init__(self, *counts: int) -> None:
        self.counts = counts

    def convert(
        self, value: str | tuple[float, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """The numbers; fails as a usage error."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in self.counts:
            counts = " or ".join(map(str, self.counts))
            self.fail(f"expected {counts} numbers separated by commas, got {value!r}", param, ctx)
        return numbers


def mark_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command `--box`, `--point` and `--scribble`, and an argument `marks` for them."""

    @click.option(
        "--box", "boxes", metavar="X0,Y0,X1,Y1", type=Numbers(4), multiple=True,
        help="Box around the object in pixels, instead of MASK. Can be repeated.",
    )  # fmt: skip
    @click.option(
        "--point", "points", metavar="X,Y[,0]", type=Numbers(2, 3), multiple=True,
        help="Point on the object, or off it with ,0. Can be repeated.",
    )  # fmt: skip
    @click.option(
        "--scribble", metavar="FILE", type=GivenPath(),
        help="Strokes: white on the object, black on the background, the rest grey (128) or transparent.",
    )  # fmt: skip
    @wraps(command)
    def gathered(
        *args: Any, boxes: tuple[tuple[float, ...], ...], points: tuple[tuple[float, ...], ...],
        scribble: Path | None, **rest: Any,
    ) -> None:  # fmt: skip
        given = MarkOptions(boxes, points, scribble)
        command(*args, marks=given, **rest)

    return gathered


class MarkOptions:
    """Marks on the command line; false if there are none.

    Attributes:
        scribble: the file of strokes, or None.
    """

    def __init__(
        self, boxes: tuple[tuple[float, ...], ...], points: tuple[tuple[float, ...], ...], scribble: Path | None
    ) -> None:
        self._boxes, self._points, self.scribble = boxes, points, scribble

    def __bool__(self) -> bool:
        return bool(self._boxes or self._points or self.scribble)

    def draw(self, image: NDArray[np.uint8]) -> CoarseMask:
        """The coarse mask that the marks on `image`, uint8 (H, W, 3), amount to.

        Raises:
            ImageError: the file of strokes cannot be read.
            MaskError: the marks do not fit the image, or mark no object.
        """
        from segrefine.runtime.files.marks import Box, Marks, Point, coarse_from_marks, read_scribble

        size = image.shape[0], image.shape[1]
        marks = Marks(
            boxes=[Box(*box) for box in self._boxes],
            points=[Point(x, y, not on or on[0] != 0) for x, y, *on in self._points],
            scribble=read_scribble(self.scribble, size) if self.scribble else None,
        )
        return coarse_from_marks(image, marks)
