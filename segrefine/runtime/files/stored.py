"""Content of a mask's file before its meaning is known: levels or indices, colours and transparency."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.errors import MaskError
from segrefine.runtime.files.image import is_iso_media, open_image

NPY_MAGIC = b"\x93NUMPY"
_WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _SOFTWARE, _EXTRA_SAMPLES = 258, 259, 262, 305, 338
"""Tags of TIFF."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """One mask or label map as its file holds it.

    Attributes:
        values: (H, W): grey levels, indices of a palette, or the numbers of an array. For a colour picture the colours,
            uint8 (H, W, 3).
        full: the level of white; None for an array, whose dtype and values tell it.
        palette: colours of the indices, uint8 (n, 3); None for a picture without a palette.
        alpha: opacity, uint8 (H, W), 0 is transparent; None where every pixel is opaque.
        lossy: whether the format alters values, as JPEG does.
        mode: what Pillow calls the picture's channels; empty for an array.
    """

    values: NDArray[Any]
    full: int | None = None
    palette: NDArray[np.uint8] | None = None
    alpha: NDArray[np.uint8] | None = None
    lossy: bool = False
    mode: str = ""

    @property
    def is_array(self) -> bool:
        """Return whether it comes from an array and not from a picture."""
        return self.full is None


def read_npy(encoded: bytes) -> NDArray[Any]:
    """The array in a `.npy`.

    Raises:
        MaskError: the file is damaged, or holds Python objects.
    """
    try:
        array: NDArray[Any] = np.load(io.BytesIO(encoded), allow_pickle=False)
    except Exception as error:  # the header is parsed as Python, and fails in as many ways
        raise MaskError("the .npy mask is damaged, or holds objects", hint="write it again with numpy.save") from error
    return array


def decode(encoded: bytes, name: str | None) -> Stored:
    """Decode the bytes of a picture file or a `.npy`.

    Args:
        encoded: the file.
        name: what errors call it; None where it has no name.

    Raises:
        ImageError: the picture is damaged, too large or of an unknown format.
        MaskError: the array is damaged, or the picture has channels of which nobody says what they mean, or what
            they hold.
    """
    if encoded.startswith(NPY_MAGIC):
        return of_array(read_npy(encoded))
    if encoded.startswith((b"II", b"MM")):
        _check_extra_channels(encoded)
        _check_white(encoded)
    image = open_image(encoded, name)
    _check_wide_channels(image, encoded)
    return of_picture(image, encoded)


def of_array(array: NDArray[Any]) -> Stored:
    """An array as a stored mask; axes of length 1 before or after (H, W) are dropped.

    Raises:
        MaskError: it is not two-dimensional.
    """
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or not array.size:
        raise MaskError(expected="a mask (H, W)", got=f"an array of shape {array.shape}", hint="save one channel")
    return Stored(values=array)


def of_picture(image: Image.Image, encoded: bytes = b"") -> Stored:
    """A decoded picture as a stored mask.

    Args:
        image: the picture, in its file's own mode.
        encoded: its file, which says the bit depth; empty for a picture that was made in memory.

    Raises:
        MaskError: its colours are none that a mask has.
    """
    lossy = _is_lossy(encoded)
    alpha = _alpha_of(image, encoded)
    palette = None
    match image.mode:
        case "1" | "F":
            values, full = np.asarray(image), 1
        case "P" | "PA":
            values, full = np.asarray(image if image.mode == "P" else image.getchannel(0)), 255
            palette = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
        case "L" | "LA" | "La":
            values, full = _stored_levels(image, encoded)
        case mode if mode in _WIDE:
            values = np.asarray(image)
            is_grey_map = encoded.startswith((b"P2", b"P5"))  # of 16 bits, which Pillow scales to 65535
            is_byte = mode == "I" and not is_grey_map and 0 <= values.min() <= values.max() <= 255
            full = 255 if is_byte else _full_scale(encoded, 65535)
        case "RGB" | "RGBA" | "RGBX" | "RGBa":
            values, full = _grey_of(image.convert("RGBA"), alpha, lossy=lossy), 255
        case _:
            raise colour_error(image.mode)
    return Stored(values=values, full=full, palette=palette, alpha=alpha, lossy=lossy, mode=image.mode)


def colour_error(mode: str) -> MaskError:
    """The error for a picture whose colours are not levels."""
    return MaskError(
        expected="a grey or palette mask", got=f"colours ({mode})", hint="save the mask as one channel, 0 and 255"
    )


def _grey_of(image: Image.Image, alpha: NDArray[np.uint8] | None, *, lossy: bool) -> NDArray[np.uint8]:
    """The levels of an RGB picture whose visible pixels are grey, (H, W); else its colours, (H, W, 3)."""
    colours = np.asarray(image.convert("RGB"))
    visible = colours if alpha is None else colours[alpha > 0]
    tolerance = 24 if lossy else 0  # what JPEG and WebP make of grey
    if visible.size and np.ptp(visible.astype(np.int16), axis=-1).max() > tolerance:
        return colours
    return colours[..., 0] if not lossy else np.round(colours.mean(axis=2)).astype(np.uint8)


def _stored_levels(image: Image.Image, encoded: bytes) -> tuple[NDArray[np.uint8], int]:
    """The levels of a grey picture as its file stores them, and the level of white; Pillow scales both to 8 bits."""
    grey = np.asarray(image.convert("LA").getchannel(0) if image.mode == "La" else image.getchannel(0))
    full = _full_scale(encoded, 255)
    return (grey if full == 255 else np.round(grey * (full / 255)).astype(np.uint8)), full


def _alpha_of(image: Image.Image, encoded: bytes) -> NDArray[np.uint8] | None:
    """The opacity of each pixel, by a channel, a palette or one transparent colour; None if all are opaque."""
    alpha: NDArray[Any] | None = None
    key = image.info.get("transparency")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        alpha = np.asarray(image.getchannel("A" if image.mode.endswith("A") else "a"))
    elif image.mode == "RGB" and encoded.startswith(b"BM"):
        alpha = _alpha_of_bmp(encoded, image.size)
    elif key is None:
        pass
    elif image.mode == "P":
        table = np.full(256, 255, np.uint8)
        table[[key] if isinstance(key, int) else slice(len(key))] = 0 if isinstance(key, int) else list(key)
        alpha = table[np.asarray(image)]
    elif image.mode == "1":
        alpha = (np.asarray(image) != bool(key)) * np.uint8(255)
    elif image.mode == "RGB":
        shift = 8 if _png_depth(encoded) == 16 else 0
        alpha = (np.asarray(image) != [part >> shift for part in key]).any(axis=2) * np.uint8(255)
    else:  # grey: the key is a stored level, and Pillow scales levels of fewer than 8 bits
        scale = 255 // _full_scale(encoded, 255) if image.mode == "L" else 1
        alpha = (np.asarray(image) != key * scale) * np.uint8(255)
    return None if alpha is None or (alpha == 255).all() else alpha


def _alpha_of_bmp(encoded: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """The fourth byte of a pixel in a BMP of 32 bits, which Pillow drops; None where it says nothing."""
    (width, height), bits = size, int.from_bytes(encoded[28:30], "little")
    start, compression = int.from_bytes(encoded[10:14], "little"), int.from_bytes(encoded[30:34], "little")
    if bits != 32 or compression or len(encoded) < start + 4 * width * height:
        return None
    pixels = np.frombuffer(encoded, np.uint8, 4 * width * height, start).reshape(height, width, 4)
    is_upside_down = int.from_bytes(encoded[22:26], "little", signed=True) > 0
    fourth = pixels[::-1, :, 3] if is_upside_down else pixels[..., 3]
    return fourth if np.ptp(fourth) else None


def _is_lossy(encoded: bytes) -> bool:
    if encoded.startswith((b"II", b"MM")):
        return _tiff_tag(encoded, _COMPRESSION) in (6, 7)  # JPEG inside of a TIFF
    if encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
        return b"VP8 " in _webp_chunks(encoded)
    return encoded.startswith(b"\xff\xd8\xff") or is_iso_media(encoded)


def _webp_chunks(encoded: bytes) -> set[bytes]:
    """The kinds of a WebP's chunks, those in the frames of an animation among them."""
    found, place = set(), 12
    while place + 8 <= len(encoded):
        kind = encoded[place : place + 4]
        found.add(kind)
        size = int.from_bytes(encoded[place + 4 : place + 8], "little")
        place += 24 if kind == b"ANMF" else 8 + size + size % 2  # a frame's own chunks follow 16 bytes of its header
    return found


def _tiff_tag(encoded: bytes, tag: int) -> Any:
    """The first value of a tag in a TIFF's header; None where there is none."""
    try:
        with Image.open(io.BytesIO(encoded), formats=["TIFF"]) as image:
            value = image.tag_v2.get(tag)  # type: ignore[attr-defined]  # a TIFF
    except Exception:  # the one reader of pictures says what is wrong
        return None
    return value[0] if isinstance(value, tuple) and value else value


def _png_depth(encoded: bytes) -> int | None:
    return encoded[24] if encoded.startswith(b"\x89PNG\r\n\x1a\n") and len(encoded) > 24 else None


def _full_scale(encoded: bytes, default: int) -> int:
    """The level of white by the file's bit depth; `default` where the file does not say."""
    if depth := _png_depth(encoded):
        return (1 << depth) - 1
    if header := re.match(rb"P[25]\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s+(\d+)\s", encoded):
        largest = int(header[1])
        return largest if largest < 255 else default
    if encoded.startswith((b"II", b"MM")):
        bits = _tiff_tag(encoded, _BITS_PER_SAMPLE)
        return 2**bits - 1 if bits in (1, 2, 4, 8, 12, 16) else default
    return default


def _check_extra_channels(encoded: bytes) -> None:
    """Refuses a TIFF with a channel that Pillow would drop because the file does not say what it is."""
    if _tiff_tag(encoded, _EXTRA_SAMPLES) == 0:
        raise MaskError(
            expected="a mask of one channel",
            got="a TIFF with a further channel of no stated meaning",
            hint="save one channel; or say in the file that the further one is alpha",
        )


def _check_white(encoded: bytes) -> None:
    """Refuses what tifffile makes of an array of bool: it says that 0 is white, and reads 1 as True again."""
    is_inverted = _tiff_tag(encoded, _BITS_PER_SAMPLE) == 1 and _tiff_tag(encoded, _PHOTOMETRIC) == 0
    if is_inverted and str(_tiff_tag(encoded, _SOFTWARE)).startswith("tifffile"):
        message = "the mask can be read in two ways: its stored bits are 1 where its shown levels are black"
        raise MaskError(message, hint="save it as 0 and 255 in 8 bits; or with photometric='minisblack'")


def _check_wide_channels(image: Image.Image, encoded: bytes) -> None:
    """Refuse several channels of 16 bits of which nothing is left: Pillow keeps the upper 8 bits of each."""
    depth = _tiff_tag(encoded, _BITS_PER_SAMPLE) if encoded.startswith((b"II", b"MM")) else _png_depth(encoded)
    channels = image.split() if depth == 16 and len(image.getbands()) > 1 else ()
    extremes = [(values.min(), values.max()) for values in map(np.asarray, channels)]
    if extremes and all(low == high for low, high in extremes) and (0, 0) in extremes:
        message = "it has several channels of 16 bits, whose levels below 256 cannot be told from 0, and no others"
        raise MaskError(message, hint="save the mask as one channel, 0 and 255")
