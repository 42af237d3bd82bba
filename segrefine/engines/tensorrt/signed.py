"""Quantized graphs as TensorRT reads them: activations as int8 with the zero point 0, biases in float32."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from segrefine.errors import EngineError, MissingDependencyError

_UNSIGNED_ZERO = 128


@contextmanager
def signed_graph(graph: Path) -> Iterator[Path]:
    """A context with a copy of a quantized graph in which all integers are int8.

    A bundle has uint8 with the zero point 128, which processors are fast with. It stands for the same numbers.

    Raises:
        EngineError: an activation has another zero point.
        MissingDependencyError: the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("onnx is not installed", hint='pip install "segrefine[export]"') from error
    model = onnx.load(graph, load_external_data=False)
    onnx.load_external_data_for_model(model, str(graph.parent))
    tensors = {each.name: each for each in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and tensors.get(node.input[0]) is not None:
            values = onnx.numpy_helper.to_array(tensors[node.input[0]])
            if values.dtype == np.int32:  # a bias
                scale = onnx.numpy_helper.to_array(tensors[node.input[1]])
                whole = (values * scale).astype(np.float32)
                tensors[node.output[0]] = onnx.numpy_helper.from_array(whole, node.output[0])
                continue
        kept.append(node)
    zeros = {node.input[2] for node in kept if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for name in zeros:
        zero = onnx.numpy_helper.to_array(tensors[name])
        if zero.dtype == np.uint8:
            if (zero != _UNSIGNED_ZERO).any():
                raise EngineError(
                    subject=graph, expected=f"activations with the zero point {_UNSIGNED_ZERO}", got=int(zero.max())
                )
            tensors[name] = onnx.numpy_helper.from_array(np.zeros(zero.shape, np.int8), name)
    used = {name for node in kept for name in node.input}
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(tensor for name, tensor in tensors.items() if name in used)
    folder = Path(tempfile.mkdtemp())
    try:
        onnx.save(model, folder / graph.name, save_as_external_data=True, location=f"{graph.name}_data")
        yield folder / graph.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)
