"""One mask in every encoding: what a file may look like that means it. For property tests of all that read masks."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

Truth = NDArray[np.float32]
ALWAYS_READ = ("grey", "palette of greys", "palette,", "opaque", "npy", "transparent PNG,", "transparent GIF",
               "transparent TIFF", "transparent WEBP", "transparent BMP", "soft f", "soft TIFF")  # fmt: skip
"""Encodings that leave no doubt, so that an error would be wrong."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """A mask and a file that means it.

    Attributes:
        truth: float32 (H, W), the probability that the file means.
        content: the file.
        how: the encoding in words.
        error: by how much values may be off.
    """

    truth: Truth
    content: bytes
    how: str
    error: float = 1e-6

    def __repr__(self) -> str:
        return f"{self.how}, {self.truth.shape[1]}×{self.truth.shape[0]}, {len(np.unique(self.truth))} levels"


def encode(picture: Image.Image | NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    """The file of a picture."""
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_npy(array: NDArray[Any]) -> bytes:
    """The `.npy` of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def raw_png(values: NDArray[Any], depth: int, colour_type: int = 0, **chunks: bytes) -> bytes:
    """A PNG as it stands: grey (type 0) or indices (type 3) of 1, 2, 4, 8 or 16 bits; other types have 16 bits."""
    height, width = values.shape[:2]
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        bits = (values[..., None] >> np.arange(depth - 1, -1, -1) & 1).astype(np.uint8).reshape(height, -1)
        rows = [np.packbits(row).tobytes() for row in bits]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    extra = [(name.encode(), data) for name, data in chunks.items()]
    parts = [(b"IHDR", header), *extra, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@st.composite
def hard_masks(draw: st.DrawFn) -> NDArray[np.bool_]:
    """A blob that is neither empty nor everything."""
    height, width = draw(st.integers(6, 24)), draw(st.integers(6, 24))
    y, x = np.mgrid[:height, :width]
    row, column = draw(st.integers(1, height - 2)), draw(st.integers(1, width - 2))
    radius = draw(st.integers(1, max(1, min(height, width) // 2 - 1)))
    return np.asarray(np.hypot(y - row, x - column) <= radius)


@st.composite
def soft_masks(draw: st.DrawFn) -> Truth:
    """A disc with a soft edge, of a few levels or of hundreds."""
    side, softness = draw(st.integers(12, 48)), draw(st.floats(0.5, 12))
    y, x = np.mgrid[:side, :side]
    distance = np.hypot(y - side / 2, x - side / 3)
    peak = draw(st.sampled_from([1.0, 1.0, 1.0, 0.8, 0.45]))
    return (peak * ((side / 4 - distance) / softness + 0.5).clip(0, 1)).astype(np.float32)


Encoder = Callable[[st.DrawFn, NDArray[np.bool_]], Encoded]


def grey(draw: st.DrawFn, mask: NDArray[np.bool_]) -> Encoded:
    """0 and some level, of any bit depth; or white on black the other way round, where a colour is transparent."""
    depth = draw(st.sampled_from([1, 2, 4, 8, 16]))
    level = draw(st.sampled_from([1, 2**depth - 1, min(15, 2**depth - 1), 2 ** (depth - 1)]))
    inverse = draw(st.booleans())
    values = np.where(mask ^ inverse, level, 0)
    key: dict[str, Any] = {"tRNS": struct.pack(">H", level if inverse else 0)} if inverse or draw(st.booleans()) else {}
    return Encoded(truth=mask.astype(np.float32), content=raw_png(values, depth, **key),
                   how=f"grey of {depth} bits, 0 and {level}, key {key}, inverse {inverse}")  # fmt: skip


def palette_of_greys(draw: st.DrawFn, mask: NDArray[np.bool_]) -> Encoded:
    """Black and a grey at two entries of a palette."""
    depth = draw(st.sampled_from([1, 2, 4, 8]))
    back, front = draw(st.permutations(range(min(2**depth, 16))))[:2]
    colours = np.full((2**depth, 3), draw(st.integers(0, 255)), np.uint8)
    colours[back], colours[front] = 0, draw(st.sampled_from([1, 15, 128, 200, 255]))
    values = np.where(mask, front, back)
    content = raw_png(values, depth, 3, PLTE=colours.tobytes())
    return Encoded(truth=mask.astype(np.float32), content=_in_format(draw, content, colours, values),
                   how=f"palette of greys, {depth} bits, {back} and {front}")  # fmt: skip


def palette_of_colours(draw: st.DrawFn, mask: NDArray[np.bool_]) -> Encoded:
    """An object in colours on black or white, at any entries of a palette, as programs that shrink pictures do it."""
    back, front, other = draw(st.permutations(range(8)))[:3]
    colours = np.array(draw(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=8, max_size=8)), np.uint8)
    colours[back] = draw(st.sampled_from([0, 255]))
    colours[front] = draw(st.sampled_from([(255, 0, 0), (0, 128, 0), (0, 0, 0), (255, 255, 255), (9, 9, 200)]))
    colours[other] = (3, 200, 90)
    if colours[front].max() == colours[front].min() != 255 - colours[back][0] or colours[back][0]:
        colours[front] = (128, 0, 0)  # black on white would mean that the white is the object
    values = np.where(mask, front, back)
    if draw(st.booleans()):
        values = np.where(mask & (np.arange(mask.shape[1]) % 2 == 0), other, values)
    content = raw_png(values, 8, 3, PLTE=colours.tobytes())
    return Encoded(truth=mask.astype(np.float32), content=_in_format(draw, content, colours, values),
                   how=f"palette of colours, {back} {colours[back]}, object {front} {colours[front]}")  # fmt: skip


def transparent_palette(draw: st.DrawFn, mask: NDArray[np.bool_]) -> Encoded:
    """An object of one colour, the rest transparent, at any entries of a palette."""
    back, front = draw(st.permutations(range(8)))[:2]
    colours = np.array(draw(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=8, max_size=8)), np.uint8)
    values, opacity = np.where(mask, front, back), bytearray(b"\xff" * 8)
    opacity[back] = 0
    if draw(st.booleans()):
        image = Image.fromarray(values.astype(np.uint8), "P")
        image.putpalette(colours.tobytes())
        content = encode(image, "GIF", transparency=back)
    else:
        content = raw_png(values, 8, 3, PLTE=colours.tobytes(), tRNS=bytes(opacity))
    return Encoded(truth=mask.astype(np.float32), content=content,
                   how=f"palette, {back} transparent, object {front} {colours[front]}")  # fmt: skip


def transparent(draw: st.DrawFn, mask: NDArray[np.bool_]) -> Encoded:
    """An object of one colour or of a photograph, the rest transparent, in a picture with an alpha channel."""
    shown = draw(st.sampled_from([(0, 0, 0), (255, 255, 255), (255, 0, 0), (128, 128, 128), "photograph"]))
    hidden = np.array(draw(st.sampled_from([(0, 0, 0), (255, 255, 255), (9, 90, 200)])), np.uint8)
    if isinstance(shown, str):
        colours = np.random.default_rng(3).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    else:
        colours = np.broadcast_to(np.array(shown, np.uint8), (*mask.shape, 3))
    colours = np.where(mask[..., None], colours, hidden)
    image = Image.fromarray(np.dstack([colours, mask * np.uint8(255)]))
    kind = draw(st.sampled_from(["PNG", "TIFF", "WEBP", "BMP", "GIF", "quantized", "LA"]))
    if kind == "quantized":
        fewer = image.quantize(draw(st.sampled_from([16, 256])))
        how = f"transparent PNG-8, shown {shown}"
        return Encoded(truth=_opacity(fewer), content=encode(fewer), how=how, error=0.02)
    if kind == "LA":
        content = encode(image.convert("LA"), draw(st.sampled_from(["PNG", "TIFF"])))
    else:
        content = encode(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    how = f"transparent {kind}, shown {shown}, hidden {hidden}"
    return Encoded(truth=mask.astype(np.float32), content=content, how=how)


def opaque(draw: st.DrawFn, mask: NDArray[np.bool_]) -> Encoded:
    """White on black in pictures of more than one channel, in every format, some of which alter values."""
    image = Image.fromarray(mask * np.uint8(255))
    mode = draw(st.sampled_from(["1", "L", "LA", "RGB", "RGBA", "P"]))
    kind = draw(st.sampled_from(["PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "WEBP lossy", "JPEG"]))
    if kind == "JPEG":
        mode = draw(st.sampled_from(["L", "RGB"]))
        content = encode(image.convert(mode), kind, quality=draw(st.integers(75, 100)))
    elif kind.startswith("WEBP"):
        content = encode(image.convert(mode), "WEBP", lossless=kind == "WEBP", quality=90)
    else:
        mode = "RGB" if kind in ("BMP", "PPM", "GIF") and mode in ("LA", "RGBA") else mode
        content = encode(image.convert("L" if kind == "PPM" and mode == "P" else mode), kind)
    error = 0.5 if kind in ("JPEG", "WEBP lossy") else 1e-6
    return Encoded(truth=mask.astype(np.float32), content=content, how=f"opaque {mode} {kind}", error=error)


def arrays(draw: st.DrawFn, mask: NDArray[np.bool_]) -> Encoded:
    """A `.npy` of 0 and another number."""
    dtype = draw(st.sampled_from(["?", "u1", "i1", "u2", ">u2", "i4", "i8", "f2", "f4", "f8"]))
    level = 1 if dtype in "?i1f2f4f8" else draw(st.sampled_from([1, 15, 128, 255]))
    array = (mask * level).astype(dtype)
    shape = draw(st.sampled_from([mask.shape, (1, *mask.shape), (*mask.shape, 1)]))
    return Encoded(truth=mask.astype(np.float32), content=encode_npy(array.reshape(shape)), how=f"npy {dtype} {level}")


HARD: list[Encoder] = [
    grey, palette_of_greys, palette_of_colours, transparent_palette, transparent, opaque, arrays
]  # fmt: skip


@st.composite
def encoded_masks(draw: st.DrawFn) -> Encoded:
    """A mask, hard or soft, in some encoding."""
    if draw(st.integers(0, 2)):
        return draw(st.sampled_from(HARD))(draw, draw(hard_masks()))
    return _encode_soft(draw, draw(soft_masks()))


def _encode_soft(draw: st.DrawFn, truth: Truth) -> Encoded:
    bytes_of, deep = np.round(truth * 255).astype(np.uint8), np.round(truth * 65535).astype(np.uint16)
    white = Image.new("RGB", truth.shape[::-1], draw(st.sampled_from(["white", "black", "red"])))
    white.putalpha(Image.fromarray(bytes_of))
    fewer = white.quantize(256)
    how = draw(st.sampled_from(
        ["L", "16 bits", "16-bit TIFF", "RGB", "palette", "quantized", "GIF", "alpha", "alpha TIFF", "alpha WebP",
         "alpha PNG-8", "key", "key GIF", "LA", "TIFF float", "f4", "f2", "f8", "u1", "u2", "JPEG"]
    ))  # fmt: skip
    image = Image.fromarray(bytes_of)
    makers: dict[str, Callable[[], bytes]] = {
        "L": lambda: encode(image),
        "16 bits": lambda: encode(deep),
        "16-bit TIFF": lambda: encode(deep, "TIFF"),
        "RGB": lambda: encode(image.convert("RGB")),
        "palette": lambda: encode(image.convert("P", palette=Image.Palette.ADAPTIVE)),
        "quantized": lambda: encode(image.quantize(256)),
        "GIF": lambda: encode(image, "GIF"),
        "alpha": lambda: encode(white),
        "alpha TIFF": lambda: encode(white, "TIFF"),
        "alpha WebP": lambda: encode(white, "WEBP", lossless=True),
        "alpha PNG-8": lambda: encode(fewer),
        "key": lambda: encode(image, transparency=0),
        "key GIF": lambda: encode(image.convert("P"), "GIF", transparency=0),
        "LA": lambda: encode(Image.merge("LA", [image, image.point(lambda level: 255 * (level > 0))])),
        "TIFF float": lambda: encode(truth, "TIFF"),
        **{dtype: partial(encode_npy, truth.astype(dtype)) for dtype in ("f4", "f2", "f8")},
        "u1": lambda: encode_npy(bytes_of),
        "u2": lambda: encode_npy(deep),
        "JPEG": lambda: encode(image, "JPEG", quality=95),
    }
    error = {"JPEG": 0.2, "alpha PNG-8": 0.02, "quantized": 0.03, "palette": 0.03}.get(how, 0.003)
    truth = _opacity(fewer) if how == "alpha PNG-8" else truth
    return Encoded(truth=truth, content=makers[how](), how=f"soft {how}", error=error)


def _opacity(picture: Image.Image) -> Truth:
    """What is left of a mask's opacity after a program has shrunk its colours."""
    return np.asarray(picture.convert("RGBA").getchannel("A")).astype(np.float32) / np.float32(255)


def _in_format(draw: st.DrawFn, png: bytes, colours: NDArray[np.uint8], values: NDArray[Any]) -> bytes:
    """The PNG, or the same indices and palette in another format."""
    kind = draw(st.sampled_from(["PNG", "PNG", "GIF", "TIFF", "BMP"]))
    if kind == "PNG":
        return png
    image = Image.fromarray(values.astype(np.uint8), "P")
    image.putpalette(colours.tobytes())
    return encode(image, kind)


def agrees(found: NDArray[Any], encoded: Encoded) -> bool:
    """Whether a probability that was read is the one that the file means."""
    return found.shape == encoded.truth.shape and float(np.abs(found - encoded.truth).max()) <= encoded.error
