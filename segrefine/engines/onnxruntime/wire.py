"""ONNX files field by field: protobuf's wire format, as far as it takes to replace one part of a graph."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_SIZES = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: which field of the message it is.
        value: a whole number; or the bytes of all else, messages among them.
        raw: the field as it stands in the file.
    """

    number: int
    value: int | bytes
    raw: bytes


def read_fields(message: bytes) -> Iterator[Field]:
    """The fields of a message in their order.

    Raises:
        ValueError: these bytes are no message.
    """
    place = 0
    while place < len(message):
        start = place
        key, place = _read_varint(message, place)
        number, kind = key >> 3, key & 7
        value: int | bytes
        if kind == _VARINT:
            value, place = _read_varint(message, place)
        elif kind == _LENGTH:
            size, place = _read_varint(message, place)
            value, place = message[place : place + size], place + size
        elif kind in _SIZES:
            value, place = message[place : place + _SIZES[kind]], place + _SIZES[kind]
        else:
            raise ValueError(f"byte {start} starts no field")
        if place > len(message) or not number:
            raise ValueError(f"the field at byte {start} ends past the file")
        yield Field(number, value, message[start:place])


def write_field(number: int, value: int | float | str | bytes) -> bytes:
    """A field: whole numbers as varints, other numbers in single precision, text in UTF-8, messages as they are."""
    if isinstance(value, int):
        return _write_varint(number << 3 | _VARINT) + _write_varint(value % 2**64)
    if isinstance(value, float):
        return _write_varint(number << 3 | _FOUR_BYTES) + struct.pack("<f", value)
    content = value.encode() if isinstance(value, str) else value
    return _write_varint(number << 3 | _LENGTH) + _write_varint(len(content)) + content


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """A number and where it ends: seven bits a byte, the lowest first; the eighth bit says that more follow."""
    number = 0
    for position, byte in enumerate(message[place : place + 10]):
        number |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return number, place + position + 1
    raise ValueError(f"the number at byte {place} does not end")


def _write_varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
