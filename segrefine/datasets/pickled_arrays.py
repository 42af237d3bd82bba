"""Functions that the pickle of an array may call, each under its name in the pickle."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 2**30
"""Of a file, and of the array that one tensor with strides may stand for."""
_LARGEST_SIDE = 2**40
_MOST_AXES = 8
_CODES = {"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"}
_STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "b1",
}  # fmt: skip


class Reader(Protocol):
    """Reader of the pickle."""

    is_inner: bool

    def spend(self, count: int) -> None:
        """Note that bytes were copied; raise ValueError where they are more than the file has."""
        ...

    def read_inner(self, stream: io.BytesIO) -> Any:
        """Read the pickle that is next in a stream of a tensor's storage."""
        ...


@dataclass(frozen=True)
class Name:
    """A name in a module that a pickle holds; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:80]


@dataclass
class ArrayType:
    """The type of an array's numbers, as a pickle builds it: NumPy's code, "O" for objects, and its byte order."""

    code: str
    order: str = "="

    def set_state(self, state: Any) -> None:
        """Take the byte order; raise ValueError for a type of structures."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("the type of an array has a strange state")
        if any(part is not None for part in state[2:5]):
            raise ValueError("it holds an array of structures")
        self.order = state[1]


@dataclass
class Array:
    """An array of a pickle; its value is None until its state is known, and a list where it is of objects."""

    value: Any = None

    def set_state(self, state: Any) -> None:
        """Take shape, type and bytes."""
        if self.value is not None or not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array has a strange state")
        _, shape, kind, in_columns, content = state
        if isinstance(kind, ArrayType) and kind.code == "O":
            if not isinstance(content, list) or len(content) != 1:
                raise ValueError("it holds an array of objects")
            self.value = content
        else:
            self.value = _array_of(content, kind, shape, in_columns is True or in_columns == 1)


@dataclass
class Storage:
    """The numbers of a tensor of PyTorch; None until their bytes are read."""

    dtype: str
    count: int
    values: NDArray[Any] | None = None


def show(value: Any) -> str:
    """A value for a message: a name as it is, anything else by its type, for it may be endless."""
    return str(value) if isinstance(value, Name) else f"a {type(value).__name__}"


def refer_to_storage(given: Any) -> Storage:
    """The storage that a tensor's inner pickle refers to.

    Raises:
        ValueError: it refers to something else.
    """
    if not isinstance(given, tuple) or len(given) < 5 or not isinstance(given[1], Name):
        raise ValueError("it refers to something outside of it")
    kind, count = given[1], given[4]
    dtype = _STORAGES.get(kind.name) if kind.module == "torch" else None
    if dtype is None or type(count) is not int or not 0 <= count <= MOST_BYTES:
        raise ValueError(f"it holds a tensor of {kind}")
    return Storage(dtype, count)


def _array_of(content: Any, kind: Any, shape: Any, in_columns: bool) -> NDArray[Any]:
    """A view of bytes as an array; they must fill its shape."""
    if not isinstance(content, bytes | bytearray) or not isinstance(kind, ArrayType) or kind.code not in _CODES:
        raise ValueError("an array does not hold numbers")
    shape = _check_shape((shape,) if isinstance(shape, int) else shape)
    dtype = np.dtype(("" if kind.order == "|" else kind.order) + kind.code)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"an array {dtype} {shape} has {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if in_columns else "C")


def _check_shape(shape: Any) -> tuple[int, ...]:
    is_tuple = isinstance(shape, tuple) and len(shape) <= _MOST_AXES
    if not is_tuple or not all(type(side) is int and 0 <= side < _LARGEST_SIDE for side in shape):
        raise ValueError("an array has a strange shape")
    return tuple(shape)


def _type_of(reader: Reader, code: Any, *_: Any) -> ArrayType:
    name = code.decode("latin1") if isinstance(code, bytes) else code
    bare = name.lstrip("<>|=") if isinstance(name, str) and len(name) < 8 else ""
    if bare in ("O", "O8"):
        return ArrayType("O")
    if bare not in _CODES:
        raise ValueError(f"it holds an array of the type {name if bare else show(code)}")
    return ArrayType(bare, name[0] if name[0] in "<>" else "=")


def _new_array(reader: Reader, *_: Any) -> Array:
    return Array()


def _scalar(reader: Reader, kind: Any, content: Any) -> Any:
    return _array_of(content, kind, (1,), False)[0].item()


def _from_buffer(reader: Reader, content: Any, kind: Any, shape: Any, order: Any) -> Array:
    return Array(_array_of(content, kind, shape, order == "F"))


def _encode(reader: Reader, text: Any, coding: Any = None) -> bytes:
    if not isinstance(text, str) or coding not in ("latin1", "latin-1"):
        raise ValueError("it encodes something that is no text")
    reader.spend(len(text))
    return text.encode("latin1")


def _empty(reader: Reader) -> dict[Any, Any]:
    return {}


def _storage_of(reader: Reader, encoded: Any) -> Storage:
    """The storage that PyTorch writes into a pickle: five pickles in a row, and the numbers behind them."""
    if reader.is_inner or not isinstance(encoded, bytes):
        raise ValueError("a tensor holds another one")
    reader.spend(len(encoded))
    stream = io.BytesIO(encoded)
    *_, storage, keys = [reader.read_inner(stream) for _ in range(5)]
    if not isinstance(storage, Storage) or not isinstance(keys, list) or len(keys) != 1:
        raise ValueError("a tensor has a strange storage")
    stream.read(8)  # how many numbers there are, once more
    dtype = np.dtype(storage.dtype)
    content = stream.read(storage.count * dtype.itemsize)
    if len(content) != storage.count * dtype.itemsize:
        raise ValueError("a tensor is cut short")
    storage.values = np.frombuffer(content, dtype)
    return storage


def _tensor(reader: Reader, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Array:
    """A tensor of PyTorch as an array over its storage."""
    sides, steps = _check_shape(size), _check_shape(stride)
    [start] = _check_shape((offset,))
    if not isinstance(storage, Storage) or storage.values is None or len(sides) != len(steps):
        raise ValueError("a tensor has no storage")
    values, count = storage.values, math.prod(sides)
    if not count:
        return Array(np.zeros(sides, values.dtype))
    if start + sum((side - 1) * step for side, step in zip(sides, steps, strict=True)) >= len(values):
        raise ValueError("a tensor is larger than its storage")
    if count * values.itemsize > MOST_BYTES:
        raise ValueError("a tensor is too large")
    strides = [step * values.itemsize if side > 1 else 0 for side, step in zip(sides, steps, strict=True)]
    return Array(np.lib.stride_tricks.as_strided(values[start:], sides, strides, writeable=False))


_ARRAY_CALLS: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _new_array, "multiarray.scalar": _scalar, "numeric._frombuffer": _from_buffer,
}  # fmt: skip
CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _type_of, "collections.OrderedDict": _empty, "_codecs.encode": _encode,
    "torch._utils._rebuild_tensor_v2": _tensor, "torch.storage._load_from_bytes": _storage_of,
    **{f"numpy.core.{name}": call for name, call in _ARRAY_CALLS.items()},
    **{f"numpy._core.{name}": call for name, call in _ARRAY_CALLS.items()},
}  # fmt: skip
"""What a pickle may call; nothing else is called, and nothing is imported."""
