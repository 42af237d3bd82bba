"""The formats of pictures that are written, in one table; imports nothing, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Content = Literal["plain", "palette", "16 bits", "opacity"]
"""What a picture needs of its format; "plain" is grey or RGB of 8 bits."""


@dataclass(frozen=True, kw_only=True)
class PictureFormat:
    """A format, and what it can hold without loss.

    Attributes:
        name: what Pillow calls it.
        holds: what it can hold.
        options: how Pillow writes it.
    """

    name: str
    holds: frozenset[Content]
    options: dict[str, Any] = field(default_factory=dict)


_PNG = PictureFormat(name="PNG", holds=frozenset({"plain", "palette", "16 bits", "opacity"}))
_TIFF = PictureFormat(name="TIFF", holds=_PNG.holds, options={"compression": "tiff_lzw"})
PICTURE_FORMATS = {
    ".png": _PNG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".webp": PictureFormat(name="WEBP", holds=frozenset({"plain", "opacity"}), options={"lossless": True}),
    ".bmp": PictureFormat(name="BMP", holds=frozenset({"plain", "palette"})),
}
"""Each format by the ending of a file's name."""


def list_suffixes(content: Content = "plain") -> tuple[str, ...]:
    """The endings of the formats that can hold a kind of picture."""
    return tuple(suffix for suffix, each in PICTURE_FORMATS.items() if content in each.holds)
