"""Label Studio's run lengths: the pixels of an RGBA picture, row by row, packed into bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import MaskError

_CHANNELS = 4
_WORD_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
"""A run states which of these its length takes."""
_LONGEST = 1 << _LENGTH_BITS[-1]
_HEADER_BITS = 32 + 5 + 4 * len(_LENGTH_BITS)
_HINT = "expected the `rle` of a brush region, as Label Studio writes it"


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """The run lengths of a mask, bool (H, W), as numbers from 0 to 255: every channel is 255 inside of the mask."""
    flat = np.ascontiguousarray(mask).reshape(-1)
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    lengths = _CHANNELS * np.diff(ends, prepend=-1)
    bits = [_bits_of(flat.size * _CHANNELS, 32), _bits_of(_WORD_BITS - 1, 5)]
    bits += [_bits_of(each - 1, 4) for each in _LENGTH_BITS]
    for length, value in zip(lengths.tolist(), flat[ends].tolist(), strict=True):
        word = "1" * _WORD_BITS if value else "0" * _WORD_BITS
        while length > _LONGEST:
            bits.append(_run(_LONGEST, word))
            length -= _LONGEST
        bits.append(_run(length, word))
    text = "".join(bits)
    text += "0" * (8 - len(text) % 8)  # Label Studio's own writer adds a whole byte where none is needed
    return np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tolist()


def decode_brush(numbers: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask, bool (H, W), of run lengths: where the opacity is above 0.

    Args:
        numbers: from 0 to 255.
        size: (H, W) that the region states.

    Raises:
        MaskError: they are no run lengths, or are of another size.
    """
    try:
        packed = np.array(numbers, np.int64)
    except (ValueError, TypeError, OverflowError):
        packed = np.array([-1])
    if packed.ndim != 1 or not ((packed >= 0) & (packed <= 255)).all() or packed.size * 8 < _HEADER_BITS:
        raise MaskError(expected="a brush as numbers from 0 to 255", got=f"{numbers!r:.60}", hint=_HINT)
    bits = np.unpackbits(packed.astype(np.uint8)).tobytes().translate(bytes([48, 49]) + bytes(254)).decode()
    total = int(bits[:32], 2)
    if total != size[0] * size[1] * _CHANNELS:
        expected = f"a brush of {size[1]}×{size[0]} pixels, as its region states"
        raise MaskError(expected=expected, got=f"one of {total / _CHANNELS:g} pixels", hint=_HINT)
    values = _read_runs(bits, total)
    return np.asarray(values.reshape(*size, _CHANNELS)[..., 3] > 0)


def _read_runs(bits: str, total: int) -> NDArray[np.uint8]:
    """All values, uint8 (total,), of the bits, those of the header in front."""
    word = int(bits[32:37], 2) + 1
    widths = [int(bits[place : place + 4], 2) + 1 for place in range(37, _HEADER_BITS, 4)]
    values, done, place = np.zeros(total, np.uint8), 0, _HEADER_BITS
    while done < total:
        start = place + 3
        width = widths[int(bits[place + 1 : start] or "0", 2)]
        end = start + width
        length = int(bits[start:end] or "0", 2) + 1
        count = 1 if bits[place : place + 1] == "1" else length  # a run has one word; else each value has its own
        place = end + count * word
        if place > len(bits) or done + length > total:
            raise MaskError("the run lengths of the brush are cut short", hint=_HINT)
        words = [int(bits[first : first + word], 2) & 255 for first in range(end, place, word)]
        values[done : done + length] = words
        done += length
    return values


def _run(length: int, word: str) -> str:
    """The bits of a run, as Label Studio's own writer packs it."""
    number = next(number for number, width in enumerate(_LENGTH_BITS) if length <= 1 << width)
    return f"{1 if length > 1 else 0}{number:02b}{length - 1:0{_LENGTH_BITS[number]}b}{word}"


def _bits_of(value: int, width: int) -> str:
    return f"{value:0{width}b}"
