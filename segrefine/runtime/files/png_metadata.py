"""PNGs with more metadata than Pillow reads: the same picture without it."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_METADATA = (b"iCCP", b"iTXt", b"tEXt", b"zTXt")
"""Colour profiles and texts; segrefine uses none of them."""
_XMP = b"XML:com.adobe.xmp\0"
_LARGEST_XMP = 2**23
_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)[1-8]')


def drop_metadata(encoded: bytes) -> bytes | None:
    """A PNG's bytes without colour profile and texts; None where it has none, or is no PNG.

    The orientation that XMP states stays, for it changes how the picture is shown.

    Args:
        encoded: the file.
    """
    if not encoded.startswith(_SIGNATURE):
        return None
    chunks = list(_chunks(encoded))
    kept = [(name, data) for name, data in chunks if name not in _METADATA]
    if len(kept) == len(chunks):
        return None
    texts = (data for name, data in chunks if name == b"iTXt" and data.startswith(_XMP))
    if stated := next((found for data in texts if (found := _ORIENTATION.search(_read_xmp(data)))), None):
        kept.insert(1, (b"iTXt", _XMP + b"\0\0\0\0" + stated[0]))
    return _SIGNATURE + b"".join(_encode(name, data) for name, data in kept)


def _chunks(encoded: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each chunk, as far as the file goes."""
    place = len(_SIGNATURE)
    while place + 8 <= len(encoded):
        (size,) = struct.unpack_from(">I", encoded, place)
        yield encoded[place + 4 : place + 8], encoded[place + 8 : place + 8 + size]
        place += 12 + size


def _read_xmp(data: bytes) -> bytes:
    """The text of an XMP chunk, up to a size that no camera exceeds; empty where it is damaged."""
    is_compressed = data[len(_XMP) : len(_XMP) + 1] == b"\1"
    text = data[len(_XMP) + 2 :].split(b"\0", 2)[-1]  # after language and translated keyword
    if not is_compressed:
        return text
    try:
        return zlib.decompressobj().decompress(text, _LARGEST_XMP)
    except zlib.error:
        return b""


def _encode(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
