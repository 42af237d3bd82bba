"""Full TensorRT's Python front end for plugins, as the lean wheels carry it, on stand-ins for what its builder has.

The wheels of the builder cannot be had everywhere, those of the lean runtime can: its plugin registry and the whole
package `tensorrt.plugin` are the real ones. Only the types that describe sizes while an engine is built are replaced.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

TensorFormat = Enum(
    "TensorFormat",
    "LINEAR CHW2 HWC8 CHW4 CHW16 CHW32 DHWC8 CDHW32 HWC DLA_LINEAR DLA_HWC4 HWC16 DHWC",
    start=0,
)


class Size:
    """A size, known or not, in place of `IDimensionExpr`."""

    def __init__(self, value: int, constant: bool) -> None:
        self.value, self.constant = value, constant

    def is_constant(self) -> bool:
        return self.constant

    def get_constant_value(self) -> int:
        return self.value

    def is_size_tensor(self) -> bool:
        return False


class Sizes:
    """Arithmetic on sizes, in place of `IExprBuilder`."""

    _operations: dict[str, Callable[[int, int], int]] = {
        "SUM": int.__add__,
        "SUB": int.__sub__,
        "PROD": int.__mul__,
        "CEIL_DIV": lambda x, y: -(-x // y),
        "FLOOR_DIV": int.__floordiv__,
        "MAX": max,
        "MIN": min,
    }

    def constant(self, value: int) -> Size:
        return Size(value, True)

    def operation(self, operation: Any, x: Size, y: Size) -> Size:
        value = self._operations[str(operation).rpartition(".")[2]](x.value, y.value)
        return Size(value, x.constant and y.constant)


class Symbol:
    """In place of `ISymExpr`, which would hold the expression in C++."""


class Shapes(list):
    """In place of `DimsExprs`."""

    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


class Described:
    """In place of `PluginTensorDesc`, and of what a builder gives around it."""

    type = format = scale = dims = None

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: Any, linear: Any) -> Any:
        given: Any = DynamicDescribed()
        given.desc = cls()
        given.desc.type, given.desc.format, given.desc.scale, given.desc.dims = dtype, linear, 1.0, shape
        given.min = given.opt = given.max = shape
        return given


class DynamicDescribed:
    """In place of `DynamicPluginTensorDesc`."""


@contextmanager
def stand_in() -> Iterator[Any]:
    """A context in which `import tensorrt` gives the front end."""
    import tensorrt_lean_bindings as lean
    import tensorrt_lean_libs  # noqa: F401  # it loads the library

    module: Any = types.ModuleType("tensorrt")
    module.__dict__.update({name: value for name, value in vars(lean).items() if not name.startswith("__")})
    module.IDimensionExpr, module.IExprBuilder, module.ISymExpr = Size, Sizes, Symbol
    module.DimsExprs, module.PluginTensorDesc, module.DynamicPluginTensorDesc = Shapes, Described, DynamicDescribed
    module.TensorFormat = TensorFormat
    module.ITensor = type("ITensor", (), {})
    folder = Path(lean.__file__).parent / "plugin"
    before = {name for name in sys.modules if name.partition(".")[0] == "tensorrt"}
    assert not before, "the real TensorRT is imported"
    sys.modules["tensorrt"] = module
    spec = importlib.util.spec_from_file_location(
        "tensorrt.plugin", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec and spec.loader
    module.plugin = sys.modules["tensorrt.plugin"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module.plugin)
    try:
        yield module
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]:
            del sys.modules[name]


class Build:
    """What a builder does with one plugin: makes it from a node's attributes, asks for its shapes, formats and launch.

    Args:
        trt: from `stand_in`.
        name: of the op.
        inputs: shape and type of each.
        fixed: (input, axis) of the sizes that are known while building.
        attributes: the node's.
    """

    def __init__(
        self,
        trt: Any,
        name: str,
        inputs: list[tuple[tuple[int, ...], Any]],
        fixed: set[tuple[int, int]],
        **attributes: Any,
    ) -> None:
        from tensorrt.plugin._lib import _TemplatePluginCreator

        self.trt, self.inputs = trt, inputs
        kinds = {float: (np.float64, trt.PluginFieldType.FLOAT64), int: (np.int64, trt.PluginFieldType.INT64)}
        fields = [
            trt.PluginField(key, np.array([value], kinds[type(value)][0]), kinds[type(value)][1])
            for key, value in attributes.items()
        ]
        creator = trt.get_plugin_registry().get_creator(name, "1", "segrefine")
        assert creator is not None, f"the registry has no {name}"
        self.plugin = _TemplatePluginCreator.create_plugin(
            creator, name, "segrefine", trt.PluginFieldCollection(fields), "BUILD",
            trt.QuickPluginCreationRequest.STRICT_AOT,
        )  # fmt: skip
        self.sizes = [
            [Size(size, (number, axis) in fixed) for axis, size in enumerate(shape)]
            for number, (shape, _) in enumerate(inputs)
        ]
        types_ = [dtype for _, dtype in inputs]
        self.output_types = self.plugin.get_output_data_types(types_, [len(shape) for shape, _ in inputs])
        (output,) = self.plugin.get_output_shapes(self.sizes, [], Sizes())
        self.output_shape = tuple(size.value for size in output)

    def formats(self) -> list[list[Any]]:
        """The combinations of types that the plugin takes and gives."""
        everything = self._described()
        found = self.plugin.get_supported_format_combinations(everything, len(self.inputs))
        rows = [found[i : i + len(everything)] for i in range(0, len(found), len(everything))]
        assert all(each.format is self.trt.TensorFormat.LINEAR for row in rows for each in row)
        return [[each.type for each in row] for row in rows]

    def launch(self) -> dict[str, Any]:
        """How the kernel is launched, and its text."""
        everything = self._described()
        self.plugin.get_supported_format_combinations(everything, len(self.inputs))
        self.plugin.configure_plugin(everything[:-1], everything[-1:])
        (tactic,) = self.plugin.get_valid_tactics()
        self.plugin.set_tactic(tactic)
        parameters, scalars = types.SimpleNamespace(), _Scalars()
        self.plugin.get_launch_params(self.sizes, everything, len(self.inputs), parameters, scalars, Sizes())
        kernel, text = self.plugin.get_kernel([e.desc for e in everything[:-1]], [e.desc for e in everything[-1:]])
        values = {name: _value(expression) for name, expression in vars(parameters).items()}
        arguments = [_value(scalars[index]) for index in range(scalars.nbSymExprs)]
        return {"kernel": kernel, "text": text.decode(), "scalars": arguments, **values}

    def _described(self) -> list[Any]:
        linear = self.trt.TensorFormat.LINEAR
        tensors = [*self.inputs, (self.output_shape, self.output_types[0])]
        return [Described.of(shape, dtype, linear) for shape, dtype in tensors]


class _Scalars(dict):
    nbSymExprs = 0


def _value(symbol: Any) -> int:
    expression = symbol.expr
    return int(getattr(expression, "value", expression))
