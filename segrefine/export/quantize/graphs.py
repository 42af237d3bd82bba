"""A graph in float32 → the same graph with eight-bit convolutions and products.

Weights are int8, with a scale for each output channel. Activations are uint8 with the zero point 128: processors are
fast with that, and for GPUs it stands for int8 with the zero point 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from segrefine.engines.backends import QUANTIZER
from segrefine.engines.engine import Feeds
from segrefine.export.storage import WeightFile, halve_weights, widen_weights

_LEAST_WEIGHTS = 4096
"""Smaller products stay in float32: converting their inputs takes longer than it saves."""


@dataclass(frozen=True, kw_only=True)
class FloatGraph:
    """A graph whose weights are float32 initializers, ready to be quantized.

    Attributes:
        path: its file; weights lie beside it.
        nodes: names of the operators that can be quantized, in the order of the graph.
    """

    path: Path
    nodes: tuple[str, ...]


def prepare_graph(source: Path, weights: WeightFile) -> FloatGraph:
    """Write a graph with its weights in float32, which `halve_weights` stored in half the bytes.

    Args:
        source: the file of the graph.
        weights: the file for its weights; the graph is written beside it.
    """
    model = ir.load(source)
    widen_weights(model)
    nodes = tuple(str(node.name) for node in model.graph if _is_product(node))
    path = weights.path.with_name(source.name)
    weights.take(model)
    ir.save(model, path)
    return FloatGraph(path=path, nodes=nodes)


def quantize_graph(
    graph: FloatGraph, ranges: Any, weights: WeightFile, target: Path, left_out: Sequence[str] = ()
) -> None:
    """Write the quantized graph.

    Args:
        graph: the graph in float32.
        ranges: of its tensors, as the quantizer measured them.
        weights: the file for its weights, beside `target`.
        target: the file of the quantized graph.
        left_out: operators that stay in float32.
    """
    nodes = [name for name in graph.nodes if name not in left_out]
    model = ir.serde.deserialize_model(QUANTIZER.quantize(graph.path, ranges, nodes))
    halve_weights(model)
    weights.take(model)
    ir.save(model, target)


def rank_nodes(graph: FloatGraph, feeds: Feeds) -> list[str]:
    """The operators that can be quantized, the one that loses most first.

    The loss of an operator is that of rounding its input or its weights, whichever is larger: the mean square of the
    rounding error, over that of the values.

    Args:
        graph: the graph in float32.
        feeds: one sample of its inputs.
    """
    model = onnx.load(graph.path)
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    chosen = [node for node in model.graph.node if node.name in graph.nodes]
    given = {each.name for each in model.graph.input}
    taken = {name: np.asarray(values) for name, values in feeds.items()}
    taken |= QUANTIZER.compute(graph.path, sorted({node.input[0] for node in chosen} - given), feeds)
    losses: dict[str, float] = {}
    for node in chosen:
        values, kernel = taken[node.input[0]], weights[node.input[1]]
        channels = kernel.reshape(len(kernel), -1) if node.op_type == "Conv" else kernel.reshape(-1, kernel.shape[-1]).T
        losses[node.name] = max(_loss(values.reshape(1, -1)), _loss(channels))
    return sorted(losses, key=lambda name: -losses[name])


def _loss(rows: NDArray[Any]) -> float:
    """Mean square of the error of rounding to 255 steps in each row, over that of the values."""
    steps = 2 * np.abs(rows).max(1) / 255
    return float(np.square(steps).mean() / 12 / max(np.square(rows).mean(), 1e-20))


def _is_product(node: ir.Node) -> bool:
    if node.op_type not in QUANTIZER.operators or len(node.inputs) < 2 or node.inputs[1] is None:
        return False
    weights = node.inputs[1]
    return weights.is_initializer() and weights.const_value is not None and weights.const_value.size >= _LEAST_WEIGHTS
