"""Pickles of arrays, read without Python's unpickler: what comes out is numbers, texts, lists, dictionaries and arrays.

A `.npy` that holds a dictionary is a pickle, and Python's unpickler runs whatever a pickle names. Here each operation
is looked up in a table. No name in the file is imported, and nothing is called but `pickled_arrays.CALLS`. Arrays are
views into the file's own bytes, so the file's size bounds the memory that they take.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segrefine.datasets.pickled_arrays import CALLS, MOST_BYTES, Array, ArrayType, Name, refer_to_storage, show
from segrefine.errors import MaskError

_MOST_OPERATIONS = 200_000
_MOST_ITEMS = 10_000
_COPIES = 4
"""How often all bytes of a file may be copied: twice in those of protocol 2, and a tensor's once more."""
_HINT = "only dictionaries of arrays are read: save the maps with numpy.save, without other objects in them"


def load_object(encoded: bytes) -> Any:
    """Load the object in a `.npy`: numbers, texts, lists, dictionaries and arrays.

    Args:
        encoded: the whole file.

    Raises:
        MaskError: it is no such file, is damaged, too large, or holds anything else.
    """
    if len(encoded) > MOST_BYTES:
        raise MaskError(expected=f"at most {MOST_BYTES} bytes", got=len(encoded), hint="save smaller maps")
    try:
        stream = io.BytesIO(encoded)
        shape, dtype = read_header(stream)
        if dtype != np.dtype("O") or math.prod(shape) != 1:
            raise ValueError(f"it is an array of {dtype} {shape}, and not one object")
        loaded = _Machine(_COPIES * len(encoded)).run(stream)
        if not isinstance(loaded, Array) or not isinstance(loaded.value, list):
            raise ValueError("it holds no array of one object")
        finished = _finish(loaded.value[0])
        _check_total(finished, _COPIES * len(encoded))
        return finished
    except Exception as error:  # a pickle can be wrong in as many ways as there are operations
        raise MaskError(f"its pickle is refused: {error}"[:300], hint=_HINT) from error


def read_header(stream: io.BytesIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that the header of a `.npy` states; the stream is at the data then.

    Raises:
        ValueError: there is no such header.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


class _Machine:
    """Reads one pickle.

    Attributes:
        stack: values.
        marks: heights of the stack where the pickle set its marks.
        memo: values that are used again.
        is_inner: whether it is one of the pickles of a tensor's storage.

    Args:
        budget: bytes that may be copied.
        is_inner: whether it is one of the pickles of a tensor's storage.
    """

    def __init__(self, budget: int, *, is_inner: bool = False) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.is_inner = is_inner
        self._budget = budget
        self._left = _MOST_OPERATIONS

    def run(self, stream: io.BytesIO) -> Any:
        """The value of the pickle that is next in the stream, which is behind it then."""
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name == "STOP":
                return self.pop()
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"it has more than {_MOST_OPERATIONS} operations")
            act = _OPERATIONS.get(operation.name)
            if act is None:
                raise ValueError(f"it has the operation {operation.name}, which no array needs")
            act(self, argument)
        raise ValueError("it has no end")

    def spend(self, count: int) -> None:
        """Note that bytes were copied."""
        self._budget -= count
        if self._budget < 0:
            raise ValueError("it copies more bytes than it has")

    def read_inner(self, stream: io.BytesIO) -> Any:
        """The value of the next of the pickles of a tensor's storage."""
        self._left -= 100  # so that many tensors are as dear as many operations
        return _Machine(0, is_inner=True).run(stream)

    def pop(self) -> Any:
        """The uppermost value."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("it takes a value that is not there")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """The values above the uppermost mark."""
        if not self.marks:
            raise ValueError("it has no mark")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self) -> Any:
        """The uppermost value, which stays; None where there is none."""
        return self.stack[-1] if self.stack else None


def _build(machine: _Machine, _: Any) -> None:
    state, target = machine.pop(), machine.top()
    if not isinstance(target, Array | ArrayType):
        raise ValueError(f"it gives a state to {show(target)}, which is no array")
    target.set_state(state)


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, called = machine.pop(), machine.pop()
    call = CALLS.get(str(called)) if isinstance(called, Name) else None
    if call is None or not isinstance(arguments, tuple):
        raise ValueError(f"it calls {show(called)}; nothing that a file names is called")
    machine.stack.append(call(machine, *arguments))


def _name(machine: _Machine, argument: Any) -> None:
    module, _, name = str(argument).partition(" ")
    machine.stack.append(Name(module, name))


def _stack_name(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("a name is no text")
    machine.stack.append(Name(module, name))


def _refer(machine: _Machine, _: Any) -> None:
    if not machine.is_inner:
        raise ValueError("it refers to something outside of it")
    machine.stack.append(refer_to_storage(machine.pop()))


def _append(machine: _Machine, values: list[Any]) -> None:
    target = machine.top()
    if not isinstance(target, list) or len(target) + len(values) > _MOST_ITEMS:
        raise ValueError(f"it appends to {show(target)}, or too much")
    target.extend(values)


def _set_items(machine: _Machine, values: list[Any]) -> None:
    target, keys = machine.top(), values[::2]
    if not isinstance(target, dict) or len(values) % 2 or len(target) + len(keys) > _MOST_ITEMS:
        raise ValueError(f"it sets items of {show(target)}, or too many")
    for key in keys:
        if type(key) not in (int, str):  # the hash of a tuple of tuples may take for ever
            raise ValueError(f"expected keys that are whole numbers or texts, got {show(key)}")
    target.update(zip(keys, values[1::2], strict=True))


def _dict(machine: _Machine, _: Any) -> None:
    values = machine.pop_to_mark()
    machine.stack.append({})
    _set_items(machine, values)


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(tuple([machine.pop() for _ in range(count)][::-1]))


def _put(machine: _Machine, argument: Any) -> None:
    machine.memo[len(machine.memo) if argument is None else argument] = machine.stack[-1]


def _constant(value: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(value())


def _argument(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _nothing(machine: _Machine, _: Any) -> None:
    """Do nothing: the operation only says how the pickle is written."""


_OPERATIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), _nothing),
    **dict.fromkeys(
        (
            "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
            "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "BYTEARRAY8",
            "SHORT_BINBYTES", "BINBYTES8",
        ),
        _argument,
    ),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_LIST": _constant(list),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_TUPLE": _constant(tuple),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "DICT": _dict,
    **{f"TUPLE{count}": _tuple(count) for count in (1, 2, 3)},
    "APPEND": lambda machine, _: _append(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_to_mark()),
    "SETITEM": lambda machine, _: _set_items(machine, [machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_to_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, key: machine.stack.append(machine.memo[key])),
    "GLOBAL": _name,
    "STACK_GLOBAL": _stack_name,
    "REDUCE": _reduce,
    "BUILD": _build,
    "BINPERSID": _refer,
}  # fmt: skip
"""Every operation that a pickle of arrays needs."""


def _finish(value: Any) -> Any:
    """A value with arrays in place of what stands for them: in a dictionary, and in lists in it."""
    if isinstance(value, dict):
        return {key: _finish_item(item) for key, item in value.items()}
    return _finish_item(value)


def _check_total(value: Any, most: int) -> None:
    """Raise ValueError where arrays have more bytes than `most`: one map can be named again for every class."""
    items = list(value.values()) if isinstance(value, dict) else [value]
    parts = [part for item in items for part in (item if isinstance(item, list) else [item])]
    total = sum(part.nbytes for part in parts if isinstance(part, np.ndarray))
    if total > most:
        raise ValueError(f"its arrays have {total} bytes, many times as many as the file")


def _finish_item(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Array) and isinstance(value.value, np.ndarray):
        return value.value
    if value is not None and type(value) not in (int, float, bool, str, bytes):
        raise ValueError(f"it holds {show(value)}, which is no array")
    return value
