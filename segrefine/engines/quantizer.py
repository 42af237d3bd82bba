"""Quantizers: a graph in float32 → the same graph with eight-bit products."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from segrefine.engines.engine import Feeds


class Quantizer(Protocol):
    """Weights become int8, with a scale for each output channel; activations uint8 with the zero point 128.

    Attributes:
        operators: the types of operators that it quantizes.
    """

    operators: tuple[str, ...]

    def measure_ranges(self, graph: Path, feeds: Sequence[Feeds]) -> Any:
        """Measure the least and the largest value of every tensor that the operators take and give."""
        ...

    def quantize(self, graph: Path, ranges: Any, nodes: Sequence[str]) -> Any:
        """The quantized graph, an `onnx.ModelProto`.

        Args:
            graph: the graph in float32.
            ranges: of its tensors, see `measure_ranges`.
            nodes: names of the operators that are quantized.
        """
        ...

    def compute(self, graph: Path, names: Sequence[str], feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Compute tensors inside of a graph.

        Args:
            graph: the graph in float32.
            names: of the tensors.
            feeds: one sample of the inputs.
        """
        ...
