"""Resizing of images of any size to the model's pixel grid, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedImage:
    """An image on the model's grid, and the way back.

    The image is scaled, keeping its aspect (a strip too thin for the grid is stretched to one cell), and then filled up
    to the grid with its mirror image, on the right and at the bottom. Sizes are (height, width) in pixels.

    Attributes:
        image: uint8 (h, w, 3) RGB, h and w multiples of the grid.
        size: the image's own size (H, W).
        content: the part of `image`, from its upper left, that is not filling.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    content: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """The size (h, w) of `image`."""
        return self.image.shape[0], self.image.shape[1]

    def apply(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """A map (H, W) over the original, such as its mask, brought to the same grid: float32 (h, w)."""
        return _pad(_resize(values, self.content), self.image.shape[:2])

    def at_pixels(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """A map over the grid, at any resolution, at that of `image`: float32 (h, w)."""
        return _resize(values, self.image.shape[:2])

    def restore(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """A map over the grid, at any resolution (pixels or latents), brought back to the image: float32 (H, W)."""
        per_pixel = [cells / pixels for cells, pixels in zip(values.shape, self.image.shape, strict=False)]
        bottom, right = (extent * scale for extent, scale in zip(self.content, per_pixel, strict=True))
        return _resize(values, self.size, box=(0, 0, right, bottom))


def cut_filling(picture: NDArray[Number], size: tuple[int, int]) -> NDArray[Number]:
    """A picture of the model's grid at any resolution, cut to where the image of `size` (H, W) lies in it."""
    scale = max(picture.shape[:2]) / max(size)
    height, width = (max(1, round(side * scale)) for side in size)
    return picture[:height, :width]


def fit_to_grid(image: NDArray[np.uint8], *, side: int, multiple: int) -> FittedImage:
    """The image with its longer side scaled to `side`, filled up so that both are multiples of `multiple`.

    Args:
        image: uint8 (H, W, 3) RGB, of any size and aspect.
        side: the model's image side in pixels.
        multiple: pixels on a side of the coarsest cell of the network.
    """
    size = image.shape[0], image.shape[1]
    content, grid = size_on_grid(size, side=side, multiple=multiple)
    scaled = Image.fromarray(image).resize(content[::-1], Image.Resampling.BICUBIC)
    return FittedImage(image=_pad(np.asarray(scaled), grid), size=size, content=content)


def size_on_grid(size: tuple[int, int], *, side: int, multiple: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """`content` and `grid`, (height, width) in pixels, of `FittedImage`, for an image of `size`; see `fit_to_grid`."""
    height, width = size
    scale = side / max(height, width)
    content = max(multiple, round(height * scale)), max(multiple, round(width * scale))
    return content, (-(-content[0] // multiple) * multiple, -(-content[1] // multiple) * multiple)


def _resize(
    values: NDArray[np.floating[Any]], size: Sequence[int], box: tuple[float, float, float, float] | None = None
) -> NDArray[np.float32]:
    """`values` at `size`, antialiased; of a `box` (left, top, right, bottom) in them, if given."""
    picture = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.array(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))


def _pad(values: NDArray[Number], size: Sequence[int]) -> NDArray[Number]:
    """`values` (h, w, ...) filled up to `size` on the right and at the bottom, mirrored as often as it takes."""
    missing = [(0, side - present) for side, present in zip(size, values.shape, strict=False)]
    if not any(after for _, after in missing):
        return values
    return np.pad(values, missing + [(0, 0)] * (values.ndim - 2), mode="symmetric")
