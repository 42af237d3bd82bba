"""Reading pictures: whatever the file holds, an RGB array or one clear error comes out."""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from segrefine.errors import ImageError, SegrefineError
from segrefine.runtime.files.png_metadata import drop_metadata

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
PLUGIN_FORMATS = ("AVIF", "HEIF")
"""Read where Pillow can: AVIF by itself or by `pillow-avif-plugin`, HEIC by `pillow-heif`."""
ImageLike = ArrayLike | Path | Image.Image
"""A file's path or bytes, a PIL image, an array, or what has `__array__`: what `as_image` takes."""
MEGAPIXELS = 40
"""Size of an image, unless a caller allows more, in millions of pixels."""
MOST_MEGAPIXELS = 178
"""The most that a caller can allow. Pillow refuses larger pictures."""

_PIXEL_COUNT = re.compile(r"\((\d+) pixels\)")
"""How Pillow's error names the size of a picture that is too large."""
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TURNS = {
    2: "mirrored", 3: "turned by 180°", 4: "mirrored upside down", 5: "mirrored and turned by 90°",
    6: "turned by 90° to the right", 7: "mirrored and turned by 90°", 8: "turned by 90° to the left",
}  # fmt: skip
"""What EXIF's orientations mean."""

_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, ArithmeticError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's decoders let through when a file is damaged."""


def load_image(source: str | Path | bytes, *, max_megapixels: float = MEGAPIXELS) -> NDArray[np.uint8]:
    """The picture in `source` as RGB, uint8 (H, W, 3), turned as its EXIF orientation says.

    Grey, palette and CMYK pictures become RGB, 16-bit grey is scaled to 8 bits, and transparent parts show white.
    Colour profiles are not applied; of an animation the first frame counts.

    Args:
        source: a file in one of `FORMATS` or `PLUGIN_FORMATS`, or its bytes.
        max_megapixels: largest size that is read, up to `MOST_MEGAPIXELS`.

    Raises:
        ImageError: `source` is missing, empty, a folder, damaged, of another format, or larger.
    """
    name = name_of(source)
    image = open_image(read_bytes(source), name, max_megapixels)
    try:
        return _to_rgb(image)
    except ValueError as error:
        message = f"the picture cannot be turned into RGB: {error}"
        raise ImageError(message, subject=name, hint="save it as an 8-bit RGB PNG") from error


def as_image(image: ImageLike) -> NDArray[np.uint8]:
    """Any picture that Python has, as RGB, uint8 (H, W, 3); transparent parts show white.

    Args:
        image: a file's path or bytes, a PIL image, or an array or what has `__array__`: (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4), of uint8, of uint16 from 0 to 65535, of bool, or of floats from 0 to 1.

    Raises:
        ImageError: it is no picture; the message says what came.
    """
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        check_image(image)
        return image
    if isinstance(image, str | Path | bytes):
        return load_image(image)
    if isinstance(image, Image.Image):
        try:
            return _to_rgb(ImageOps.exif_transpose(image))
        except _DECODER_ERRORS as error:
            raise ImageError(f"the image cannot be turned into RGB: {error}", hint="image.convert('RGB')") from error
    array = array_of(image, "an image", ImageError)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        hint = "numpy.moveaxis(image, 0, -1)" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else "one RGB picture"
        raise ImageError(expected="an image (H, W, 3)", got=f"an array of shape {array.shape}", hint=hint)
    return _to_rgb(Image.fromarray(_eight_bits_of(array)))


def array_of(given: Any, what: str, error_class: type[SegrefineError]) -> NDArray[Any]:
    """The array that an object is, or has by `__array__`, as tensors do.

    Args:
        given: the object.
        what: what messages call it, such as "a mask".
        error_class: of the error.

    Raises:
        SegrefineError: it is no array and cannot be made one; of the class that is given.
    """
    hint = "give a path, a file's bytes, a PIL image or an array"
    if not isinstance(given, np.ndarray) and not hasattr(given, "__array__"):
        raise error_class(expected=what, got=type(given).__name__, hint=hint)
    try:
        return np.asarray(given)
    except Exception as error:  # libraries of tensors fail in many ways, as where one is on a GPU
        hint = "tensor.detach().cpu() gives one that can be read"
        raise error_class(f"{what} that cannot be read as an array: {error}", hint=hint) from error


def _eight_bits_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind == "u" and size == 1:
        return np.ascontiguousarray(array)
    if kind == "u" and size == 2:
        return np.round(array / 257).astype(np.uint8)
    if kind in "iu" and 0 <= array.min() <= array.max() <= 255:
        return array.astype(np.uint8)
    if kind == "f" and ((array >= 0) & (array <= 1)).all():
        return np.round(array * 255).astype(np.uint8)
    found = "NaN" if kind == "f" and np.isnan(array).any() else f"{array.dtype}"
    if kind in "iuf" and found != "NaN":
        found += f" from {array.min():g} to {array.max():g}"
    raise ImageError(
        expected="an image of uint8, or of floats from 0 to 1",
        got=found,
        hint="scale the image to 0 … 255 and image.astype('uint8')",
    )


def check_image(image: NDArray[np.uint8]) -> None:
    """Checks that an array is an RGB image.

    Raises:
        ImageError: it is no uint8 array (H, W, 3), or has no pixel.
    """
    if not isinstance(image, np.ndarray):
        raise ImageError(expected="an image as an array", got=type(image).__name__, hint="numpy.asarray(image)")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ImageError(
            expected="an image uint8 (H, W, 3)",
            got=f"{image.dtype} {image.shape}",
            hint="segrefine.runtime.files.image.as_image makes one of any picture",
        )


def name_of(source: str | Path | bytes) -> str | None:
    """Return the name of `source` in errors: its path. Bytes have no name."""
    return None if isinstance(source, bytes) else str(source)


def read_bytes(source: str | Path | bytes) -> bytes:
    """The encoded bytes of `source`, at least one.

    Raises:
        ImageError: there is no such file, it is a folder, is empty, or may not be read.
    """
    name = name_of(source)
    try:
        encoded = source if isinstance(source, bytes) else Path(source).read_bytes()
    except FileNotFoundError as error:
        raise ImageError("no such file", subject=name, hint="check the path") from error
    except IsADirectoryError as error:
        hint = "give the path of one picture; `segrefine batch` reads folders"
        raise ImageError("this is a folder", subject=name, hint=hint) from error
    except (OSError, ValueError) as error:
        message = f"the file cannot be read: {error}"
        raise ImageError(message, subject=name, hint="check the path and its permissions") from error
    if not encoded:
        raise ImageError("the file is empty", subject=name, hint="write or download it again")
    return encoded


def open_image(encoded: bytes, name: str | None, max_megapixels: float = MOST_MEGAPIXELS) -> Image.Image:
    """The decoded picture, in its file's own mode, turned as its EXIF orientation says.

    Args:
        encoded: the file.
        name: what errors call it; None where it has no name.
        max_megapixels: largest size that is read. Masks have no limit of their own: they are as large as their image.

    Raises:
        ImageError: see `load_image`.
    """
    try:
        try:
            return _decode(encoded, max_megapixels)
        except ValueError:  # which is also how Pillow refuses large metadata
            if (plain := drop_metadata(encoded)) is None:
                raise
            return _decode(plain, max_megapixels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            "the picture is too large",
            subject=name,
            expected=f"at most {min(max_megapixels, MOST_MEGAPIXELS):g} megapixels",
            got=describe_size(error),
            hint=_size_hint(error),
        ) from error
    except UnidentifiedImageError as error:
        if kind := _plugin_format(encoded):
            raise _unread(kind, name) from error
        if encoded.startswith(_TIFF_MAGICS):
            hint = "save one, three or four channels of 8 or 16 bits, or one of 32-bit floats"
            raise ImageError("the file is a TIFF of a kind that is not read", subject=name, hint=hint) from error
        message = f"the file is no picture in a known format ({', '.join(FORMATS)})"
        raise ImageError(message, subject=name, hint="convert it to PNG") from error
    except _DECODER_ERRORS as error:
        raise ImageError(f"the file is damaged: {error}", subject=name, hint="write or download it again") from error


def formats_of(encoded: bytes) -> tuple[str, ...]:
    """The formats that a file may be in, as Pillow calls them; loads Pillow's plugin for HEIC where it is needed."""
    if not is_iso_media(encoded):
        return FORMATS
    Image.init()
    if "HEIF" not in Image.OPEN:
        with suppress(ImportError):
            import_module("pillow_heif").register_heif_opener()
    if "AVIF" not in Image.OPEN:
        with suppress(ImportError):
            import_module("pillow_avif")
    return tuple(name for name in PLUGIN_FORMATS if name in Image.OPEN)


def is_iso_media(encoded: bytes) -> bool:
    """Return whether a file is in the container of HEIC and AVIF."""
    return encoded[4:8] == b"ftyp"


def _plugin_format(encoded: bytes) -> str | None:
    """Return the format of a file if it is one of `PLUGIN_FORMATS`, else None."""
    brand = encoded[8:12].lower()
    if not is_iso_media(encoded) or not brand.startswith((b"hei", b"hev", b"mif", b"msf", b"avi")):
        return None
    return "AVIF" if brand.startswith(b"avi") else "HEIF"


def _unread(kind: str, name: str | None) -> ImageError:
    """The error for a file in one of `PLUGIN_FORMATS` that Pillow does not open."""
    shown, plugin = ("AVIF", "pillow-avif-plugin") if kind == "AVIF" else ("HEIC", "pillow-heif")
    if kind in Image.OPEN:
        return ImageError(f"the {shown} picture is damaged", subject=name, hint="write or download it again")
    hint = f"pip install {plugin}; or convert it to PNG"
    return ImageError(f"Pillow cannot read {shown} here", subject=name, hint=hint)


def describe_size(error: Exception) -> str:
    """Return the size of a picture that is too large, from an error about it: Pillow's, or one of `_decode`."""
    if pillow := _PIXEL_COUNT.search(str(error)):
        return f"{int(pillow[1]) / 1e6:.0f} megapixels"
    return str(error)


def _size_hint(error: Exception) -> str:
    """Return what to do about a picture that is too large."""
    sides = [int(side) for side in re.findall(r"\d+", describe_size(error))]
    pixels = sides[0] * 1e6 if _PIXEL_COUNT.search(str(error)) else math.prod(sides)
    if pixels > MOST_MEGAPIXELS * 1e6:
        return f"scale it down: no option allows more than {MOST_MEGAPIXELS} megapixels"
    return f"scale it down, or allow up to {MOST_MEGAPIXELS} by --max-megapixels"


def _decode(encoded: bytes, max_megapixels: float) -> Image.Image:
    image = Image.open(io.BytesIO(encoded), formats=formats_of(encoded))
    if image.width * image.height > max_megapixels * 1_000_000:
        raise Image.DecompressionBombError(f"{image.width}×{image.height} pixels")
    turned = ImageOps.exif_transpose(image)
    # Pillow inverts every TIFF whose white is 0, except those of 16 bits
    if image.mode == "I;16" and getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0:
        return Image.fromarray(np.uint16(65535) - np.asarray(turned))
    if image.format == "BMP" and image.mode == "1" and encoded[28] > 1:
        return _decode_two_greys(encoded)
    return turned


def _decode_two_greys(encoded: bytes) -> Image.Image:
    """A BMP of 4 or 8 bits whose palette is black and white: Pillow takes its indices for single bits.

    With a palette said to have one entry more, Pillow reads the indices.
    """
    larger = encoded[:46] + (3).to_bytes(4, "little") + encoded[50:]
    indices = np.asarray(Image.open(io.BytesIO(larger), formats=["BMP"]))
    return Image.fromarray(np.where(indices > 0, np.uint8(255), np.uint8(0))).convert("1")


def describe_turn(encoded: bytes) -> str | None:
    """Describe the rotation of a picture on reading, such as "turned by 180°"; None if there is none.

    Args:
        encoded: the file.
    """
    try:
        exif = Image.open(io.BytesIO(encoded), formats=formats_of(encoded)).getexif()
    except Exception:  # whoever reads the picture says what is wrong
        return None
    return _TURNS.get(exif.get(ExifTags.Base.Orientation, 1))


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
