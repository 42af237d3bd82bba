"""Weights on disk: in half the bytes where that loses nothing, once each, beside the graphs that use them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.convenience import replace_all_uses_with

_LARGE = 1024  # bytes; smaller tensors stay in the graph, as they are
_ALIGNMENT = 64  # bytes, so that a mapped file can be used in place


def halve_weights(model: ir.Model) -> int:
    """The number of bytes saved by storing float32 weights that float16 can represent exactly as float16.

    Each is followed by a Cast to float32, which runtimes fold when they load the graph: what is computed is the same.

    Args:
        model: changed in place.
    """
    graph, saved = model.graph, 0
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.nbytes < _LARGE:
            continue
        whole = tensor.numpy()
        if _halved(whole.ravel()[:_LARGE]) is None or (half := _halved(whole)) is None:  # a few tell it of most
            continue
        stored = ir.Value(name=f"{name}.half", const_value=ir.tensor(half, name=f"{name}.half"))
        cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT})
        replace_all_uses_with(value, cast.outputs[0])
        del graph.initializers[name]
        value.const_value = None  # see `WeightFile.take`
        cast.outputs[0].name = name
        graph.register_initializer(stored)
        graph.insert_before(graph[0], cast)
        saved += tensor.nbytes // 2
    return saved


def widen_weights(model: ir.Model) -> None:
    """Undo `halve_weights`: weights that are stored in float16 with a Cast to float32 become float32.

    Args:
        model: changed in place.
    """
    graph = model.graph
    for node in list(graph):
        stored = node.inputs[0] if node.op_type == "Cast" else None
        if stored is None or not stored.is_initializer() or stored.const_value is None:
            continue
        if stored.dtype != ir.DataType.FLOAT16 or node.attributes["to"].as_int() != ir.DataType.FLOAT:
            continue
        name = f"{stored.name}.whole"
        whole = ir.Value(name=name, const_value=ir.tensor(stored.const_value.numpy().astype(np.float32), name=name))
        replace_all_uses_with(node.outputs[0], whole)
        graph.remove(node, safe=True)
        graph.register_initializer(whole)
        if not stored.uses():
            del graph.initializers[str(stored.name)]


def _halved(values: NDArray[np.float32]) -> NDArray[np.float16] | None:
    """The values in float16, where it can represent all of them exactly."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else None


class WeightFile:
    """A file of external data that the graphs of one folder share; equal weights are stored once.

    Args:
        path: the file, beside the graphs; made with the first weight.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: dict[bytes, int] = {}

    def take(self, model: ir.Model) -> None:
        """Moves the model's large weights into the file, but for those that are in it; the model refers to them."""
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or self._holds(tensor):
                continue
            if tensor.nbytes < _LARGE:
                # A copy: onnxscript's optimiser holds the last graph it saw, and each tensor the whole file it is in.
                value.const_value = ir.tensor(tensor.numpy().copy(), name=value.name)
                continue
            value.const_value = ir.ExternalTensor(
                self.path.name,
                self._store(tensor.tobytes()),
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=value.name or "",
                base_dir=self.path.parent,
            )

    def _holds(self, tensor: ir.TensorProtocol) -> bool:
        """Return whether a tensor is in this file; it may be in that of the graph which the model was read from."""
        return isinstance(tensor, ir.ExternalTensor) and Path(tensor.path).absolute() == self.path.absolute()

    def _store(self, content: bytes) -> int:
        digest = hashlib.sha256(content).digest()
        if digest not in self._offsets:
            with self.path.open("ab") as file:
                file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                self._offsets[digest] = file.tell()
                file.write(content)
        return self._offsets[digest]
