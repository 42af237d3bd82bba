"""Reading pictures: whatever the file holds, an RGB array or one clear error comes out."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from segrefine.errors import ImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
MEGAPIXELS = 40

_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, ArithmeticError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's decoders let through when a file is damaged."""


def load_image(source: str | Path | bytes) -> NDArray[np.uint8]:
    """The picture in `source` as RGB, uint8 (H, W, 3), turned as its EXIF orientation says.

    Grey, palette and CMYK pictures become RGB, 16-bit grey is scaled to 8 bits, and transparent parts show white.
    Colour profiles are not applied; of an animation the first frame counts.

    Args:
        source: a file in one of `FORMATS`, or its bytes.

    Raises:
        ImageError: `source` is missing, empty, a folder, damaged, of another format, or has more than `MEGAPIXELS`.
    """
    name = name_of(source)
    image = open_image(read_bytes(source), name)
    try:
        return _to_rgb(image)
    except ValueError as error:
        raise ImageError(f"{name} cannot be turned into RGB: {error}", hint="save it as an 8-bit RGB PNG") from error


def check_image(image: NDArray[np.uint8]) -> None:
    """Checks that an array is an RGB image.

    Raises:
        ImageError: it is no uint8 array (H, W, 3), or has no pixel.
    """
    if not isinstance(image, np.ndarray):
        raise ImageError(f"expected an image as an array, got {type(image).__name__}", hint="numpy.asarray(image)")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ImageError(
            f"expected an image uint8 (H, W, 3), got {image.dtype} {image.shape}",
            hint="segrefine.runtime.image.load_image reads any file as such an array",
        )


def name_of(source: str | Path | bytes) -> str:
    """What messages call `source`."""
    return "the input" if isinstance(source, bytes) else str(source)


def read_bytes(source: str | Path | bytes) -> bytes:
    """The encoded bytes of `source`, at least one.

    Raises:
        ImageError: there is no such file, it is a folder, is empty, or may not be read.
    """
    name = name_of(source)
    try:
        encoded = source if isinstance(source, bytes) else Path(source).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file", hint="check the path") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name} is a folder", hint="give the path of one picture") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{name} cannot be read: {error}", hint="check the path and its permissions") from error
    if not encoded:
        raise ImageError(f"{name} is empty", hint="write or download it again")
    return encoded


def open_image(encoded: bytes, name: str) -> Image.Image:
    """The decoded picture, in its file's own mode, turned as its EXIF orientation says.

    Args:
        encoded: the file.
        name: what messages call it.

    Raises:
        ImageError: see `load_image`.
    """
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        if image.width * image.height > MEGAPIXELS * 1_000_000:
            raise Image.DecompressionBombError(f"{image.width}×{image.height} pixels")
        return ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        message = f"{name} is too large: expected at most {MEGAPIXELS} megapixels, got {error}"
        raise ImageError(message, hint="scale it down") from error
    except UnidentifiedImageError as error:
        message = f"{name} is no picture in a known format ({', '.join(FORMATS)})"
        raise ImageError(message, hint="convert it to PNG") from error
    except _DECODER_ERRORS as error:
        raise ImageError(f"{name} is damaged: {error}", hint="write or download it again") from error


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        image = Image.fromarray(_to_eight_bits(np.asarray(image)))
    elif image.mode == "F":
        raise ValueError("it has floating-point pixels")
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _to_eight_bits(grey: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Grey of 0 to 65535, as Pillow also gives it in 32-bit integers, scaled to 0 to 255."""
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("it has 32-bit pixels")
    return np.round(grey / 257).astype(np.uint8)
