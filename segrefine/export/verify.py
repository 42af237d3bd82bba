"""A written graph, held against the module that it came from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from segrefine.errors import ExportError, MissingDependencyError
from segrefine.export.modules import GraphModule
from segrefine.spec import TensorSpec

_TYPES = {"float32": "tensor(float)", "float16": "tensor(float16)", "int64": "tensor(int64)"}


def verify_graph(path: Path, module: GraphModule, trials: Iterable[tuple[Tensor, ...]], *, atol: float) -> float:
    """The largest error of the graph's outputs, relative to their range; names and axes are checked first.

    Args:
        path: the graph.
        module: what it must compute, in float32.
        trials: inputs to compare on, each of other sizes.
        atol: error that is still allowed, relative to the range of the output.

    Raises:
        ExportError: the graph is not valid or differs; names the tensor and its error.
        MissingDependencyError: ONNX Runtime, which runs the graph, is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "export checks its graphs by ONNX Runtime, which is not installed", hint='pip install "segrefine[cpu]"'
        ) from error
    name = module.spec.name
    try:
        onnx.checker.check_model(path, full_check=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # both libraries raise classes of their own, which share no other base
        raise ExportError(f"{name}: the exported graph is not valid: {error}") from error
    _check_interface(name, "inputs", session.get_inputs(), module.spec.inputs)
    _check_interface(name, "outputs", session.get_outputs(), module.spec.outputs)
    worst = 0.0
    for inputs in trials:
        feeds = {tensor.name: each.numpy() for tensor, each in zip(module.spec.inputs, inputs, strict=True)}
        with torch.no_grad():
            expected = module(*inputs)
        wanted = expected if isinstance(expected, tuple) else (expected,)
        for tensor, got, want in zip(module.spec.outputs, session.run(None, feeds), wanted, strict=True):
            worst = max(worst, _error(f"{name}: output {tensor.name!r}", got, want.numpy(), atol))
    return worst


def _check_interface(name: str, kind: str, found: list[Any], expected: tuple[TensorSpec, ...]) -> None:
    got = [(each.name, each.type, tuple(each.shape)) for each in found]
    want = [(each.name, _TYPES[each.dtype], each.shape) for each in expected]
    if got != want:
        raise ExportError(f"{name}: the exported graph has the {kind} {got}, expected {want}")


def _error(label: str, got: NDArray[Any], want: NDArray[Any], atol: float) -> float:
    if got.shape != want.shape:
        raise ExportError(f"{label} has shape {got.shape}, expected {want.shape}")
    error = float(np.abs(got - want).max() / max(np.ptp(want), np.finfo(np.float32).tiny))
    if not error <= atol:
        raise ExportError(
            f"{label} differs from torch by {error:.1e} of its range, expected at most {atol:.1e}",
            hint="a larger --atol accepts it",
        )
    return error
