"""A written graph, held against the module that it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from segrefine.engines import open_plain_session
from segrefine.errors import ExportError, MissingDependencyError
from segrefine.export.modules import GraphModule
from segrefine.export.precision import widened
from segrefine.spec import ComponentSpec, TensorSpec


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Output of a module for some inputs.

    Attributes:
        inputs: in the order of its specification.
        outputs: by name.
    """

    inputs: tuple[Tensor, ...]
    outputs: Mapping[str, Tensor]


def run_trials(module: GraphModule, trials: Iterable[tuple[Tensor, ...]]) -> list[Trial]:
    """Run a module on inputs, in float32, whatever the type of its weights."""
    done = []
    with torch.no_grad(), widened(module):
        for inputs in trials:
            result = module(*inputs)
            outputs = result if isinstance(result, tuple) else (result,)
            names = [tensor.name for tensor in module.spec.outputs]
            done.append(Trial(inputs=inputs, outputs=dict(zip(names, outputs, strict=True))))
    return done


_REPORT = "export with another version of PyTorch: its exporter gave another graph than was asked for"
_TYPES = {"float32": "tensor(float)", "float16": "tensor(float16)", "int64": "tensor(int64)"}


def verify_graph(path: Path, spec: ComponentSpec, trials: Iterable[Trial], *, atol: float) -> float:
    """The largest error of the graph's outputs, relative to their range; names and axes are checked first.

    Args:
        path: the graph.
        spec: what it takes and gives.
        trials: what it must compute, each of other sizes.
        atol: error that is still allowed, relative to the range of the output.

    Raises:
        ExportError: the graph is not valid or differs; names the tensor and its error.
        MissingDependencyError: the library that runs the graph is not installed.
    """
    session = _open_session(path, spec.name)
    _check_interface(spec.name, "inputs", session.get_inputs(), spec.inputs)
    _check_interface(spec.name, "outputs", session.get_outputs(), spec.outputs)
    worst = 0.0
    for trial in trials:
        feeds = {tensor.name: each.numpy() for tensor, each in zip(spec.inputs, trial.inputs, strict=True)}
        for tensor, got in zip(spec.outputs, session.run(None, feeds), strict=True):
            label = f"{spec.name}: output {tensor.name!r}"
            worst = max(worst, _error(label, got, trial.outputs[tensor.name].numpy(), atol))
    return worst


def _open_session(path: Path, name: str) -> Any:
    """A session on a graph as it is, once the graph is valid."""
    try:
        onnx.checker.check_model(path, full_check=True)
        return open_plain_session(path)
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"export runs the graphs that it checks: {error}", hint='pip install "segrefine[export]"'
        ) from error
    except Exception as error:  # both libraries raise classes of their own, which share no other base
        raise ExportError(f"the exported graph is not valid: {error}", subject=name) from error


def _check_interface(name: str, kind: str, found: list[Any], expected: tuple[TensorSpec, ...]) -> None:
    got = [(each.name, each.type, tuple(each.shape)) for each in found]
    want = [(each.name, _TYPES[each.dtype], each.shape) for each in expected]
    if got != want:
        raise ExportError(subject=f"{name}, {kind} of the exported graph", expected=want, got=got, hint=_REPORT)


def _error(label: str, got: NDArray[Any], want: NDArray[Any], atol: float) -> float:
    if got.shape != want.shape:
        raise ExportError(subject=label, expected=f"shape {want.shape}", got=got.shape, hint=_REPORT)
    error = float(np.abs(got - want).max() / max(np.ptp(want), np.finfo(np.float32).tiny))
    if not error <= atol:
        raise ExportError(
            "it differs from torch",
            subject=label,
            expected=f"at most {atol:.1e} of its range",
            got=f"{error:.1e}",
            hint="a larger --atol accepts it",
        )
    return error
