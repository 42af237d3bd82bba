"""Items of a data set: images, each with coarse masks in some notation, and a place for the refined ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import ImageError, MaskError
from segrefine.runtime.files.image import MEGAPIXELS, describe_turn, load_image, read_bytes
from segrefine.runtime.files.mask import CoarseMask

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Key = str | int
"""Names a mask among those of its image."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image of a data set, small enough to be handed to another process.

    Attributes:
        name: of no other item; what its results are called.
        root: the folder that the image must lie in.
        image: path of the image, relative to it.
        masks: what the data set knows of each of its masks, a label map being one; only the data set reads more than
            their number.
        problem: why it cannot be refined, as an error's message and its hint; None where that is not known yet.
        stated: height and width that the data set says the image has; None for what it does not say.
    """

    name: str
    root: Path
    image: str
    masks: Any = ()
    problem: tuple[str, str] | None = None
    stated: tuple[Any, Any] = (None, None)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledMask:
    """One coarse mask of an image.

    Attributes:
        key: names the mask among those of its image; its result is written under this key.
        label: what it shows.
        mask: foreground probability, float32 (H, W) in [0, 1]; or one of which only a part is in doubt.
        annotation: the id that the data set gives the mask; None where it gives none.
    """

    key: Key
    label: str
    mask: Floats | CoarseMask
    annotation: int | str | None = None

    @property
    def foreground(self) -> NDArray[np.bool_]:
        """The mask as bool (H, W)."""
        return (self.mask.probability if isinstance(self.mask, CoarseMask) else self.mask) > 0.5


class MaskResult(Protocol):
    """The part of a result that a data set writes."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Bool (H, W)."""
        ...

    @property
    def probability(self) -> Floats:
        """Float32 (H, W) in [0, 1]."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """The coarse masks of an image.

    Attributes:
        masks: those that can be refined; may be none.
        left: how many have nothing to refine: they are empty, or cover the whole image.
        unusable: a sentence for each annotation that has no usable mask, and stays as it is.
    """

    masks: Sequence[LabelledMask]
    left: int = 0
    unusable: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """Files of a data set that are part of no item, and so are not refined; paths relative to the data set.

    Attributes:
        masks_without_image: masks that no image has the name of.
        linked_folders: folders of images that are links, and are not entered.
        not_taken: files below the folder of images that are no item, by the reason.
    """

    masks_without_image: Sequence[str] = ()
    linked_folders: Sequence[str] = ()
    not_taken: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_image(item: Item, max_megapixels: float = MEGAPIXELS) -> NDArray[np.uint8]:
    """The image of an item, uint8 (H, W, 3).

    Args:
        item: the item.
        max_megapixels: largest size that is read.

    Raises:
        ImageError: it cannot be read, or lies outside of its folder.
        MaskError: the data set has something wrong with the item, or says that the image has another size.
    """
    if item.problem:
        raise MaskError(item.problem[0], hint=item.problem[1])
    image = load_image(inside(item.root, item.image), max_megapixels=max_megapixels)
    for side, stated, found in zip(("height", "width"), item.stated, image.shape, strict=False):
        if stated is not None and whole_number(stated) is None:
            raise MaskError(
                subject=item.image,
                expected=f"a {side} in pixels in its entry",
                got=f"{stated!r:.40}",
                hint="write a whole number, or leave it out",
            )
        if stated is not None and whole_number(stated) != found:
            hint = (
                "give the images that the annotations were drawn on, not scaled; or mend the entry. Images are turned "
                "as their EXIF orientation says: where annotations were drawn on an unturned one, remove it"
            )
            expected = f"a {side} of {stated} pixels, as its entry says"
            raise MaskError(subject=item.image, expected=expected, got=found, hint=hint)
    return image


def turn_of(item: Item) -> str | None:
    """Return the rotation of an item's image by its EXIF orientation; None if there is none.

    Raises:
        ImageError: the image cannot be read, or lies outside of its folder.
    """
    return describe_turn(read_bytes(inside(item.root, item.image)))


def whole_number(value: Any) -> int | None:
    """A whole number that a JSON holds as 128, 128.0 or "128"; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.strip().isdecimal() and len(value) < 20:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if isinstance(value, int) or value.is_integer() else None


def inside(root: Path, relative: str) -> Path:
    """The path of a file that lies inside of a folder, links followed.

    Raises:
        ImageError: it lies elsewhere.
    """
    path = root / relative
    real_root = os.path.realpath(root)
    if os.path.commonpath([real_root, os.path.realpath(path)]) != real_root:
        hint = "links and paths may not leave the data set's folder; copy the file there"
        raise ImageError(f"it leads out of {root}", subject=relative, hint=hint)
    return path


def check_size(found: Sequence[int], size: tuple[int, int], what: str) -> None:
    """Checks that a mask has the size (H, W) of its image.

    Raises:
        MaskError: it has another one.
    """
    if tuple(found) != size:
        expected, got = ("×".join(map(str, reversed(shape))) for shape in (size, tuple(found)))
        raise MaskError(
            subject=what,
            expected=f"{expected} pixels, as the image",
            got=got,
            hint="masks are as large as their image",
        )
