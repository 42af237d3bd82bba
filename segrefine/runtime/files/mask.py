"""Reading coarse masks: every common way to store one, as a foreground probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.errors import MaskError
from segrefine.runtime.files.image import ImageLike, array_of, name_of, open_image, read_bytes
from segrefine.runtime.files.mask_values import to_probability
from segrefine.runtime.files.stored import NPY_MAGIC, decode, of_array, of_picture, read_npy

MaskLike = ImageLike
"""A file's path or bytes, a PIL image, an array, or what has `__array__`: what `as_mask` takes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CoarseMask:
    """A coarse mask of which only a part is in doubt.

    Attributes:
        probability: of foreground, float32 (H, W) in [0, 1].
        confusion: bool (H, W), the confusion area: where refinement may change the mask; elsewhere it stays.
    """

    probability: NDArray[np.float32]
    confusion: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedMask:
    """A label with its coarse mask, checked against the image.

    Attributes:
        label: what the mask shows.
        probability: of foreground, float32 (H, W) in [0, 1].
        confusion: bool (H, W), where refinement may change the mask; None for everywhere.
    """

    label: str
    probability: NDArray[np.float32]
    confusion: NDArray[np.bool_] | None = None


def load_mask(source: str | Path | bytes, size: tuple[int, int]) -> NDArray[np.float32]:
    """The foreground probability in `source`, float32 (H, W) in [0, 1].

    It means the same in every format and mode; docs/masks.md has all rules. In short:

    - transparent is background;
    - two values, one of them 0, are a hard mask; more are soft, from 0 up to the full scale of the bit depth;
    - floating point (`.npy`, TIFF): the probability itself;
    - a palette of greys: levels. A palette of colours: a label map, in which every index above 0 is foreground.

    Args:
        source: a picture file or `.npy`, or its bytes.
        size: (H, W) of the image that the mask belongs to.

    Raises:
        ImageError: `source` is missing, empty, a folder, damaged or too large.
        MaskError: it is not a mask, is of another size, or is empty or full.
    """
    probability = read_mask(source)
    try:
        check_mask(probability, size)
    except MaskError as error:
        raise error.about(name_of(source)) from error
    return probability


def read_mask(source: str | Path | bytes) -> NDArray[np.float32]:
    """The foreground probability in `source`, as `load_mask` reads it, but of any size, and maybe empty or full.

    Raises:
        ImageError: `source` is missing, empty, a folder, damaged or too large.
        MaskError: it is not a mask, or can be read in two ways; the message names the values.
    """
    name = name_of(source)
    try:
        return to_probability(decode(read_bytes(source), name))
    except MaskError as error:
        raise error.about(name) from error


def as_mask(mask: MaskLike, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
    """Any mask that Python has, as a foreground probability, float32 (H, W) in [0, 1].

    Args:
        mask: a file's path or bytes, a PIL image, or an array or what has `__array__`: bool, float in [0, 1], or whole
            numbers as a file may hold them, such as 0 and 1 or 0 and 255. An axis of length 1 is dropped.
        size: (H, W) of the image; None where it is not known.

    Raises:
        ImageError: a file cannot be read.
        MaskError: it is no mask, can be read in two ways, or is of another size.
    """
    if isinstance(mask, np.ndarray) and mask.dtype == np.float32 and mask.ndim == 2:
        probability: NDArray[np.float32] = mask  # the usual case costs nothing
        check_range(mask)
    elif isinstance(mask, str | Path | bytes):
        probability = read_mask(mask)
    elif isinstance(mask, Image.Image):
        probability = to_probability(of_picture(mask))
    else:
        probability = to_probability(of_array(array_of(mask, "a mask", MaskError)))
    if size is not None:
        check_mask_size(probability, size)
    return probability


def read_stored(source: str | Path | bytes) -> NDArray[Any] | Image.Image:
    """Read a file of strokes: the array of a `.npy`, or else a picture in its own mode.

    Raises:
        ImageError: `source` is missing, empty, a folder, damaged or too large.
        MaskError: a `.npy` that is damaged or holds objects.
    """
    encoded = read_bytes(source)
    return read_npy(encoded) if encoded.startswith(NPY_MAGIC) else open_image(encoded, name_of(source))


def has_border(mask: NDArray[np.bool_]) -> bool:
    """Return whether a mask has something to refine: it is neither empty nor of the whole image."""
    return 0 < int(np.count_nonzero(mask)) < mask.size


def check_range(probability: NDArray[np.floating[Any]]) -> None:
    """Checks that a mask holds probabilities.

    Raises:
        MaskError: a value is below 0, above 1, or none at all.
    """
    if not ((probability >= 0) & (probability <= 1)).all():
        found = "NaN" if np.isnan(probability).any() else f"{probability.min():g} to {probability.max():g}"
        raise MaskError(expected="probabilities from 0 to 1", got=found, hint="scale the mask to [0, 1]")


def check_mask_size(mask: NDArray[Any], size: tuple[int, int]) -> None:
    """Checks that a mask is as large as its image.

    Raises:
        MaskError: it is not (H, W) as `size`.
    """
    if mask.shape != size:
        expected, got = ("×".join(map(str, reversed(shape))) for shape in (size, mask.shape))
        hint = "resize the mask, or give the image that it was drawn on"
        if mask.shape == size[::-1]:
            hint = "the image may be turned by its EXIF orientation: turn the mask as well, or remove the orientation"
        raise MaskError(expected=f"a mask of {expected} pixels, as the image", got=got, hint=hint)


def check_mask(probability: NDArray[np.floating[Any]], size: tuple[int, int]) -> None:
    """Checks that a mask can be refined.

    Args:
        probability: float (H, W) in [0, 1].
        size: (H, W) of its image.

    Raises:
        MaskError: the mask is no array of floats, of another size, not in [0, 1], or has no pixel or nothing but pixels
            above ½.
    """
    if not isinstance(probability, np.ndarray) or probability.dtype.kind != "f":
        got = str(probability.dtype) if isinstance(probability, np.ndarray) else type(probability).__name__
        raise MaskError(expected="a mask as an array of floats", got=got, hint="mask.astype(float), 0 to 1")
    check_mask_size(probability, size)
    check_range(probability)
    foreground = probability > 0.5
    if not foreground.any():
        raise MaskError("the mask is empty: there is nothing to refine", hint="mark the object (value above one half)")
    if foreground.all():
        raise MaskError(
            "the mask covers the whole image: there is no border to refine", hint="leave the background out"
        )


def check_masks(
    masks: Sequence[tuple[str, MaskLike | CoarseMask]] | Mapping[str, MaskLike | CoarseMask],
    size: tuple[int, int],
) -> list[CheckedMask]:
    """Check the coarse masks of several labels.

    Args:
        masks: pairs of label and mask, or a dict of them. A mask without a confusion area is in doubt everywhere.
        size: (H, W) of the image.

    Raises:
        MaskError: there is no mask, they are no pairs of label and mask, or one cannot be refined; see `check_mask`.
    """
    if isinstance(masks, Mapping):
        masks = list(masks.items())
    pairs = isinstance(masks, Sequence) and all(isinstance(each, tuple | list) and len(each) == 2 for each in masks)
    if not pairs:
        found = f"a {type(masks).__name__} of something else" if isinstance(masks, Sequence) else type(masks).__name__
        hint = 'such as [("fox", fox_mask), ("tree", tree_mask)]'
        raise MaskError(expected="a list of pairs of label and mask", got=found, hint=hint)
    if not masks:
        raise MaskError("there is no mask to refine", hint="give one coarse mask or more, each with its label")
    checked = []
    for label, mask in masks:
        given, doubt = (mask.probability, mask.confusion) if isinstance(mask, CoarseMask) else (mask, None)
        try:
            probability = as_mask(given)
            check_mask(probability, size)
            if doubt is not None and (doubt.shape != size or doubt.dtype != np.bool_):
                raise MaskError(
                    expected=f"a confusion area bool {size}",
                    got=f"{doubt.dtype} {doubt.shape}",
                    hint="it is as large as the mask, and True where the mask may change",
                )
        except MaskError as error:
            if len(masks) == 1:
                raise
            raise error.about(label) from error
        checked.append(CheckedMask(label=label, probability=probability, confusion=doubt))
    return checked


def merge_alike(masks: Sequence[CheckedMask]) -> tuple[list[CheckedMask], list[int]]:
    """The distinct masks, and for each mask its place among them: as rivals, two of the same would both lose.

    Args:
        masks: those of one image. Masks are the same if they have the same pixels and the same label.
    """
    distinct: list[CheckedMask] = []
    places = []
    for mask in masks:
        place = next((i for i, other in enumerate(distinct) if _are_alike(mask, other)), len(distinct))
        if place == len(distinct):
            distinct.append(mask)
        places.append(place)
    return distinct, places


def _are_alike(mask: CheckedMask, other: CheckedMask) -> bool:
    same_doubt = mask.confusion is other.confusion is None
    same_label = mask.label.strip().casefold() == other.label.strip().casefold()
    return same_doubt and same_label and np.array_equal(mask.probability, other.probability)
