"""Inputs and outputs of a graph: tensors with named free dimensions, and the sizes an engine is built for."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from numpy.typing import NDArray

from segrefine.errors import ShapeError

if TYPE_CHECKING:
    from typing import Self

DType = Literal["float32", "float16", "int64"]

MAX_PIXELS = 8192
"""Latent pixels in one denoiser call: enough to fill the cores, few enough for the memory of a large model."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: the one name that the tensor has in torch, in ONNX and in every engine.
        dtype: element type.
        shape: per axis a fixed size, or a symbol such as ``"batch"`` where it is free; one symbol, one size.
    """

    name: str
    dtype: DType
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        if self.dtype not in get_args(DType):
            raise ShapeError(
                subject=f"tensor {self.name!r}", expected=f"one of {', '.join(get_args(DType))}", got=repr(self.dtype)
            )
        if not all(isinstance(size, str) or (type(size) is int and size >= 1) for size in self.shape):
            raise ShapeError(
                subject=f"tensor {self.name!r}", expected="symbols and sizes of at least 1", got=f"shape {self.shape}"
            )

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"

    def fits(self, array: NDArray[Any]) -> bool:
        """Return whether the array has this dtype, this number of axes and every fixed size."""
        return (
            array.dtype.name == self.dtype
            and array.ndim == len(self.shape)
            and all(isinstance(want, str) or want == got for want, got in zip(self.shape, array.shape, strict=True))
        )


@dataclass(frozen=True)
class ComponentSpec:
    """The inputs and outputs of one graph, in the graph's order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def has_batch(self) -> bool:
        """Return whether every input and output is a batch, whose samples can be computed apart."""
        return all(tensor.shape[0] == "batch" for tensor in (*self.inputs, *self.outputs))

    def part(self, name: str, outputs: Collection[str]) -> ComponentSpec:
        """The specification of a graph that takes the same, and gives some of the outputs."""
        return ComponentSpec(name, self.inputs, tuple(tensor for tensor in self.outputs if tensor.name in outputs))

    def to_dict(self) -> dict[str, Any]:
        """The specification as JSON values; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The specification that `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: the values are not what `to_dict` writes.
        """

        def tensors(key: str) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(entry["name"], entry["dtype"], tuple(entry["shape"])) for entry in raw[key])

        return cls(raw["name"], tensors("inputs"), tensors("outputs"))

    def check_feeds(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Checks that the feeds are exactly the inputs, each with its dtype and shape, every symbol with one size.

        Raises:
            ShapeError: names the tensor that is wrong, what was expected and what came.
        """
        expected = [tensor.name for tensor in self.inputs]
        hint = f"its inputs are {', '.join(expected)}"
        if missing := [name for name in expected if name not in feeds]:
            raise ShapeError(f"input {missing[0]!r} is missing", subject=self.name, hint=hint)
        if surplus := sorted(set(feeds) - set(expected)):
            raise ShapeError(f"it has no input {surplus[0]!r}", subject=self.name, hint=hint)
        first_use: dict[str, tuple[int, str]] = {}
        for tensor in self.inputs:
            array, subject = feeds[tensor.name], f"{self.name}: input {tensor.name!r}"
            if not tensor.fits(array):
                raise ShapeError(subject=subject, expected=tensor, got=f"{array.dtype} {array.shape}")
            for symbol, size in zip(tensor.shape, array.shape, strict=True):
                if isinstance(symbol, int):
                    continue
                agreed, where = first_use.setdefault(symbol, (size, tensor.name))
                if size != agreed:
                    wanted = f"{symbol}={agreed}, as {where!r} has"
                    raise ShapeError(subject=subject, expected=wanted, got=f"{symbol}={size}")


@dataclass(frozen=True)
class ShapeProfile:
    """The sizes an engine is built for: smallest, best-tuned and largest, per symbol (not per tensor)."""

    min: Mapping[str, int]
    opt: Mapping[str, int]
    max: Mapping[str, int]

    def __post_init__(self) -> None:
        if not self.min.keys() == self.opt.keys() == self.max.keys():
            got = f"{sorted(self.min)}, {sorted(self.opt)} and {sorted(self.max)}"
            raise ShapeError(expected="min, opt and max shapes with the same symbols", got=got)
        for symbol in self.opt:
            if not 1 <= self.min[symbol] <= self.opt[symbol] <= self.max[symbol]:
                sizes = f"{self.min[symbol]}, {self.opt[symbol]}, {self.max[symbol]}"
                raise ShapeError(subject=symbol, expected="1 ≤ min ≤ opt ≤ max", got=sizes)


def parse_sizes(text: str) -> dict[str, int]:
    """The sizes that a text such as ``"batch=1,height=64"`` gives, by symbol.

    Raises:
        ShapeError: it cannot be read.
    """
    sizes: dict[str, int] = {}
    for item in text.split(","):
        symbol, _, size = (part.strip() for part in item.partition("="))
        if not symbol or not re.fullmatch("[0-9]{1,18}", size) or symbol in sizes:
            raise ShapeError(
                "cannot read the shapes",
                expected="a size by its symbol",
                got=f"{text!r} at {item!r}",
                hint="write them as batch=1,height=64",
            )
        sizes[symbol] = int(size)
    return sizes
