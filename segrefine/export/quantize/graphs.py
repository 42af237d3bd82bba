"""A graph in float32 → the same graph with eight-bit convolutions and products, by ONNX Runtime's quantizer.

Weights are int8, with a scale for each output channel. Activations are uint8 with the zero point 128: ONNX Runtime and
OpenVINO are fast with that, and TensorRT reads it as int8 with the zero point 0.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx_ir.convenience import replace_all_uses_with
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from segrefine.export.quantize.recording import Feeds
from segrefine.export.storage import WeightFile, halve_weights

_OPERATORS = ("Conv", "Gemm", "MatMul")
_LEAST_WEIGHTS = 4096
"""Smaller products stay in float32: converting their inputs takes longer than it saves."""
_OPTIONS = {"ActivationSymmetric": True, "WeightSymmetric": True, "DedicatedQDQPair": False}


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
    for node in list(model.graph):
        value = node.inputs[0] if node.op_type == "Cast" else None
        if value is None or value.const_value is None or not value.is_initializer():
            continue
        name, output = node.outputs[0].name, node.outputs[0]
        whole = ir.Value(
            name=f"{name}.whole", const_value=ir.tensor(_as_float(value.const_value), name=f"{name}.whole")
        )
        replace_all_uses_with(output, whole)
        model.graph.remove(node, safe=True)
        model.graph.register_initializer(whole)
        if not value.uses():
            del model.graph.initializers[str(value.name)]
    nodes = tuple(str(node.name) for node in model.graph if _is_product(node))
    path = weights.path.with_name(source.name)
    weights.take(model)
    ir.save(model, path)
    return FloatGraph(path=path, nodes=nodes)


def measure_ranges(graph: FloatGraph, feeds: Sequence[Feeds]) -> TensorsData:
    """The least and the largest value of every tensor that products take and give."""
    with _quiet():
        calibrator = create_calibrator(
            str(graph.path),
            list(_OPERATORS),
            augmented_model_path=str(graph.path.with_suffix(".augmented.onnx")),
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=True,
            extra_options={"symmetric": True},
        )
        calibrator.collect_data(_Reader(feeds))
        return calibrator.compute_data()


def quantize_graph(
    graph: FloatGraph, ranges: TensorsData, weights: WeightFile, target: Path, left_out: Sequence[str] = ()
) -> None:
    """Write the quantized graph.

    Args:
        graph: the graph in float32.
        ranges: of its tensors, see `measure_ranges`.
        weights: the file for its weights, beside `target`.
        target: the file of the quantized graph.
        left_out: operators that stay in float32.
    """
    with _quiet():
        quantizer = QDQQuantizer(
            onnx.load(graph.path),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[name for name in graph.nodes if name not in left_out],
            nodes_to_exclude=list(left_out),
            op_types_to_quantize=list(_OPERATORS),
            extra_options=_OPTIONS,
        )
        quantizer.quantize_model()
    model = ir.serde.deserialize_model(quantizer.model.model)
    halve_weights(model)
    weights.take(model)
    ir.save(model, target)


def rank_nodes(graph: FloatGraph, ranges: TensorsData, feeds: Feeds) -> list[str]:
    """The operators that can be quantized, the one that loses most first.

    The loss of an operator is that of rounding its input or its weights, whichever is larger: the mean square of the
    rounding error, over that of the values.

    Args:
        graph: the graph in float32.
        ranges: of its tensors.
        feeds: one sample of its inputs.
    """
    model = onnx.load(graph.path)
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    chosen = [node for node in model.graph.node if node.name in graph.nodes]
    inputs = sorted({node.input[0] for node in chosen} & set(ranges.keys()))
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        onnx.save(model, path, save_as_external_data=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        taken = dict(zip(inputs, session.run(inputs, dict(feeds)), strict=True))
    losses: dict[str, float] = {}
    for node in chosen:
        values, kernel = taken.get(node.input[0], np.zeros(1)), weights[node.input[1]]
        channels = kernel.reshape(len(kernel), -1) if node.op_type == "Conv" else kernel.reshape(-1, kernel.shape[-1]).T
        losses[node.name] = max(_loss(values.reshape(1, -1)), _loss(channels))
    return sorted(losses, key=lambda name: -losses[name])


def _loss(rows: NDArray[Any]) -> float:
    """Mean square of the error of rounding to 255 steps in each row, over that of the values."""
    steps = 2 * np.abs(rows).max(1) / 255
    return float(np.square(steps).mean() / 12 / max(np.square(rows).mean(), 1e-20))


def _is_product(node: ir.Node) -> bool:
    if node.op_type not in _OPERATORS or len(node.inputs) < 2 or node.inputs[1] is None:
        return False
    weights = node.inputs[1]
    return weights.is_initializer() and weights.const_value is not None and weights.const_value.size >= _LEAST_WEIGHTS


def _as_float(tensor: Any) -> NDArray[np.float32]:
    return np.asarray(tensor.numpy(), np.float32)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._feeds: Iterator[Mapping[str, NDArray[Any]]] = iter(feeds)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next sample."""
        feeds = next(self._feeds, None)
        return None if feeds is None else dict(feeds)


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without the quantizer's advice, which concerns graphs of another kind."""
    logger, level = logging.getLogger(), logging.getLogger().level
    try:
        logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)
