"""Methods of every result with a mask: measure, save, show, and hand to other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.errors import MaskError
from segrefine.runtime.files.image import ImageLike, as_image
from segrefine.runtime.files.mask import check_mask_size
from segrefine.runtime.files.output import cut_out, save_mask, save_probability
from segrefine.runtime.files.rle import encode_rle


class HasMask(Protocol):
    """A mask with a name. Results of the library and of the service's client are such."""

    @property
    def name(self) -> str:
        """Return the label or phrase that the mask shows."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Bool (H, W)."""

    @property
    def probability(self) -> NDArray[np.float32] | None:
        """Float32 (H, W) in [0, 1]; None where it is not known."""

    @property
    def confidence(self) -> float | None:
        """Return the confidence in the mask, in [0, 1]; None if it is unknown."""


class NamedMask:
    """The methods of a result that has a `name`, a `mask`, a `probability` and a `confidence`."""

    @property
    def area(self: HasMask) -> int:
        """Number of pixels in the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self: HasMask) -> tuple[int, int, int, int] | None:
        """Edges of the mask in pixels: left, top, right, bottom. None where the mask is empty.

        The right and the bottom edge lie behind the last pixel: a mask of one pixel has a box of 1×1.
        """
        return box_of(self.mask)

    @property
    def rle(self: HasMask) -> dict[str, Any]:
        """The mask as COCO's compressed run lengths, `{"size": [H, W], "counts": "…"}`."""
        return encode_rle(self.mask)

    def to_pil(self: HasMask) -> Image.Image:
        """The mask as a grey picture of 0 and 255."""
        return Image.fromarray(self.mask.astype(np.uint8) * 255)

    def cut_out(self: HasMask, image: ImageLike) -> Image.Image:
        """The object on a transparent background, RGBA: its probability, or else its mask, is the opacity.

        Args:
            image: the picture that the mask is of, as `as_image` takes it.

        Raises:
            ImageError: the image cannot be read.
            MaskError: it has another size than the mask.
        """
        pixels, mask = as_image(image), self.mask
        check_mask_size(mask, (pixels.shape[0], pixels.shape[1]))
        probability = self.probability
        return Image.fromarray(cut_out(pixels, [mask.astype(np.float32) if probability is None else probability]))

    def save(self: HasMask, file: str | Path, *, soft: bool = False) -> None:
        """Write the mask as a PNG of 0 and 255.

        Args:
            file: where to.
            soft: write the probability: a PNG of 16 bits, or float32 where the name ends in `.npy`.

        Raises:
            MaskError: the probability is not known.
            OutputError: the name has another ending, or the folder cannot be written to.
        """
        if not soft:
            save_mask(file, self.mask)
            return
        probability = self.probability
        if probability is None:
            raise MaskError("the probability is not known", hint='ask the service for maps=["probability"]')
        save_probability(file, probability)

    def to_detections(self: HasMask) -> dict[str, Any]:
        """Arguments of `supervision.Detections`; see the function `to_detections`."""
        return to_detections([self])


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The edges of a mask, bool (H, W), as `NamedMask.box` has them; None of an empty one."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def to_detections(results: Sequence[HasMask]) -> dict[str, Any]:
    """Results as the arguments of `supervision.Detections`: `supervision.Detections(**to_detections(results))`.

    supervision itself is not needed here.

    Args:
        results: n masks of one image.

    Returns:
        `xyxy`, float32 (n, 4), edges in pixels, zeros of an empty mask; `mask`, bool (n, H, W); `confidence`, float32
        (n,), or None where a result has none; `class_id`, int64 (n,), the same for the same name, in the order in which
        names first come; and `data` with the names as `class_name`.

    Raises:
        MaskError: the masks are of several sizes.
    """
    masks = [each.mask for each in results]
    if len(sizes := {mask.shape for mask in masks}) > 1:
        got = ", ".join(f"{width}×{height}" for height, width in sorted(sizes))
        raise MaskError(
            expected="masks of one image", got=f"masks of {got} pixels", hint="convert each image by itself"
        )
    names = [each.name for each in results]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    confidence = [each.confidence for each in results]
    known = [each for each in confidence if each is not None]
    return {
        "xyxy": np.array([box_of(mask) or (0, 0, 0, 0) for mask in masks], np.float32).reshape(-1, 4),
        "mask": np.stack(masks) if masks else np.zeros((0, 0, 0), np.bool_),
        "confidence": np.array(known, np.float32) if len(known) == len(confidence) else None,
        "class_id": np.array([numbers[name] for name in names], np.int64),
        "data": {"class_name": np.array(names, str)},
    }


def describe(result: HasMask, size: Sequence[int], *facts: str) -> str:
    """One line on a result, for its `repr`: class, name, size in pixels, confidence, and what else there is to say.

    Args:
        result: the result. Its mask is not asked for, since that may have to be computed.
        size: (H, W).
        facts: further ones.
    """
    parts = [repr(result.name), f"{size[1]}×{size[0]}", *facts]
    if result.confidence is not None:
        parts.append(f"confidence {result.confidence:.3f}")
    return f"{type(result).__name__}({', '.join(parts)})"
