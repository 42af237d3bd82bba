"""Writing results: whole files or none."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.errors import OutputError
from segrefine.picture_formats import PICTURE_FORMATS, Content, list_suffixes
from segrefine.storage import output_errors

_CONTENT: dict[str, Content] = {"P": "palette", "I;16": "16 bits", "RGBA": "opacity"}
"""What a picture in one of Pillow's modes needs of its format; other modes are plain."""


def save_mask(file: str | Path, mask: NDArray[np.bool_]) -> None:
    """Write a binary mask, bool (H, W), as a picture of 0 and 255.

    Raises:
        OutputError: see `save_image`.
    """
    _save_picture(Path(file), mask.astype(np.uint8) * 255)


def save_probability(file: str | Path, probability: NDArray[np.floating[Any]]) -> None:
    """Write a probability, float (H, W), as float32 where the name ends in `.npy`, else as a picture of 16 bits.

    Values are clipped to [0, 1], past which rounding may have led them.

    Raises:
        OutputError: see `save_image`.
    """
    probability = probability.clip(0, 1)
    if _is_npy(file):
        _save_npy(Path(file), probability.astype(np.float32))
    else:
        _save_picture(Path(file), np.round(probability * 65535).astype(np.uint16))


def save_label_map(file: str | Path, labels: NDArray[np.integer[Any]]) -> None:
    """Write a label map, whole numbers (H, W), 0 for none, as it is where the name ends in `.npy`, else as a picture.

    With up to 255 labels it is a palette picture in the colours of PASCAL VOC, else grey of 16 bits.

    Raises:
        OutputError: see `save_image`.
    """
    if _is_npy(file):
        _save_npy(Path(file), labels)
    else:
        _save_picture(Path(file), draw_label_map(labels))


def draw_label_map(labels: NDArray[np.integer[Any]]) -> Image.Image:
    """The picture of a label map; see `save_label_map`."""
    if labels.max(initial=0) > 255:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8), "P")
    picture.putpalette(voc_colours(256).tobytes())
    return picture


def voc_colours(count: int) -> NDArray[np.uint8]:
    """The colours of the first `count` labels, uint8 (count, 3) RGB, as PASCAL VOC's devkit defines them.

    The bits of a label's number go round red, green and blue, from the highest bit of the colour down.
    """
    labels, colours = np.arange(count), np.zeros((count, 3), np.uint8)
    for place in range(24):
        colours[:, place % 3] |= ((labels >> place & 1) << (7 - place // 3)).astype(np.uint8)
    return colours


def save_image(file: str | Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB picture, uint8 (H, W, 3).

    Raises:
        OutputError: the name's ending is none of `PICTURE_FORMATS`, the format cannot hold the picture, or the folder
            does not exist or cannot be written to.
    """
    _save_picture(Path(file), image)


def save_cutout(file: str | Path, image: NDArray[np.uint8], probabilities: Sequence[NDArray[np.floating[Any]]]) -> None:
    """Write an image, uint8 (H, W, 3), with soft masks of one object or several as its opacity, as RGBA.

    Raises:
        OutputError: see `save_image`.
    """
    _save_picture(Path(file), cut_out(image, probabilities))


def cut_out(image: NDArray[np.uint8], probabilities: Sequence[NDArray[np.floating[Any]]]) -> NDArray[np.uint8]:
    """The objects of an image on a transparent background, uint8 (H, W, 4).

    Args:
        image: uint8 (H, W, 3).
        probabilities: float (H, W) in [0, 1] of each object. The highest is the opacity of a pixel.
    """
    opacity = np.zeros(image.shape[:2], np.float32)
    for each in probabilities:
        np.maximum(opacity, each, out=opacity)
    return np.dstack([image, np.round(opacity.clip(0, 1) * 255).astype(np.uint8)])


def _is_npy(file: str | Path) -> bool:
    return Path(file).suffix.lower() == ".npy"


def _save_npy(file: Path, values: NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    write_whole(file, buffer.getvalue())


def _save_picture(file: Path, pixels: NDArray[Any] | Image.Image) -> None:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    content, suffix = _CONTENT.get(picture.mode, "plain"), file.suffix.lower()
    if suffix not in (able := list_suffixes(content)):
        what = "" if content == "plain" else f" for a picture with {'a palette' if content == 'palette' else content}"
        expected = f"a name that ends in {', '.join(able)}{what}"
        raise OutputError(expected=expected, got=repr(str(file)), hint="such as mask.png")
    chosen, buffer = PICTURE_FORMATS[suffix], io.BytesIO()
    try:
        picture.save(buffer, chosen.name, **chosen.options)
    except (OSError, ValueError) as error:  # such as a WebP of more than 16383 pixels
        message = f"cannot write {file} as {chosen.name}: {error}"
        raise OutputError(message, hint="write it as .png or .tif") from error
    write_whole(file, buffer.getvalue())


def write_whole(file: Path, content: bytes) -> None:
    """Write under a temporary name and rename, so that `file` is never half there.

    Raises:
        OutputError: the folder does not exist, cannot be written to, or is full.
    """
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")
    with output_errors(file), partial.open("xb") as stream:
        try:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
