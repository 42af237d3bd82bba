"""Stand-ins that are held to the real classes of TensorRT's bindings.

`stand_for` wraps an object of ours so that it can only be used as its real class allows. A method, a property or an
argument that the real class lacks is an error here, as it would be on a GPU. The signatures come from the docstrings
that pybind11 writes. For CUDA they come from `inspect.signature` of cuda-bindings.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, SupportsInt

BINDINGS = {"tensorrt": "tensorrt_lean_bindings", "tensorrt-rtx": "tensorrt_rtx_bindings"}
"""Library → its real bindings. Full TensorRT has the same classes as the lean runtime, see test_full_bindings."""

_NO_DEFAULT = object()
_PLAIN = {
    "typing.SupportsInt": SupportsInt,
    "str": str,
    "bool": bool,
    "tuple": tuple,
    "list": list,
    "typing_extensions.Buffer": (bytes, bytearray, memoryview),
}


def import_bindings(library: str) -> ModuleType:
    """The real bindings of a library."""
    return importlib.import_module(BINDINGS[library])


@dataclass(frozen=True)
class Parameter:
    """One argument of a real method."""

    name: str
    kind: str
    required: bool


def parse_overloads(doc: str, name: str) -> list[list[Parameter]]:
    """The parameters of each overload in a docstring of pybind11, without `self`."""
    found = []
    for text in re.findall(rf"^(?:\d+\. )?{name}\((self: .*?)\) -> .*$", doc, re.MULTILINE):
        found.append([_parse_parameter(part) for part in _split(text)[1:]])
    return found


def _parse_parameter(text: str) -> Parameter:
    declared, _, default = text.partition(" = ")
    name, _, kind = declared.partition(": ")
    return Parameter(name.strip(), kind.strip(), not default)


def _split(text: str) -> list[str]:
    """The parts between the commas that are not inside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def check_call(real: type, name: str, positional: Sequence[Any], named: dict[str, Any], module: ModuleType) -> None:
    """Raise TypeError unless the real method takes these arguments."""
    overloads = parse_overloads(getattr(real, name).__doc__ or "", name)
    assert overloads, f"{real.__name__}.{name} has no signature to check against"
    if not any(_takes(each, positional, named, module) for each in overloads):
        given = [type(each).__name__ for each in positional] + [f"{k}={type(v).__name__}" for k, v in named.items()]
        raise TypeError(f"{real.__name__}.{name}() does not take {given}; it takes {overloads}")


def _takes(parameters: list[Parameter], positional: Sequence[Any], named: dict[str, Any], module: ModuleType) -> bool:
    if len(positional) > len(parameters) or set(named) - {each.name for each in parameters}:
        return False
    values = dict(zip((each.name for each in parameters), positional, strict=False)) | named
    return all(
        _fits(values[each.name], each.kind, module) if each.name in values else not each.required for each in parameters
    )


def _fits(value: Any, kind: str, module: ModuleType) -> bool:
    if kind in _PLAIN:
        return isinstance(value, _PLAIN[kind])  # type: ignore[arg-type]
    real = _find_class(module, kind)
    return isinstance(value, real) or (isinstance(value, StandIn) and issubclass(value._real, real))


@cache
def _find_class(module: ModuleType, kind: str) -> type:
    """The class of a name such as "tensorrt_rtx_bindings.tensorrt_rtx.ICudaEngine" or "nvinfer1::IRuntimeCache"."""
    found = getattr(module, re.split(r"\.|::", kind)[-1], None)
    assert isinstance(found, type), f"the bindings have no class {kind}"
    return found


class StandIn:
    """An object of ours that can only be used as a real class allows.

    Args:
        real: the class of the bindings.
        module: the bindings.
        ours: what answers; it has the methods and properties that are used, under their real names.
    """

    _real: type
    _module: ModuleType
    _ours: Any

    def __init__(self, real: type, module: ModuleType, ours: Any) -> None:
        for name, value in {"_real": real, "_module": module, "_ours": ours}.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        found = inspect.getattr_static(self._real, name, _NO_DEFAULT)
        if found is _NO_DEFAULT:
            raise AttributeError(f"{self._real.__name__} of {self._module.__name__} has no attribute {name!r}")
        if isinstance(found, property):
            return getattr(self._ours, name)

        def call(*positional: Any, **named: Any) -> Any:
            check_call(self._real, name, positional, named, self._module)
            return getattr(self._ours, name)(*positional, **named)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        found = inspect.getattr_static(self._real, name, None)
        if not isinstance(found, property) or found.fset is None:
            raise AttributeError(f"{name!r} of {self._real.__name__} cannot be set")
        declared = re.search(r"arg1: (.+?)\) ->", found.fset.__doc__ or "")
        if declared and not _fits(value, declared[1], self._module):
            raise TypeError(f"{self._real.__name__}.{name} cannot be set to a {type(value).__name__}")
        setattr(self._ours, name, value)


def checked_function(real: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """`ours`, after a check that the real function of cuda-bindings takes the arguments."""
    signature = inspect.signature(real)

    def call(*positional: Any) -> Any:
        signature.bind(*positional)
        return ours(*positional)

    return call
