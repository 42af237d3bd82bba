"""One module → one ONNX graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
from torch import Tensor

from segrefine.errors import ExportError
from segrefine.export.functions import TRANSLATIONS
from segrefine.export.modules import GraphModule
from segrefine.spec import ComponentSpec

_SHARES = {"foreground", "token_indicator", "strength", "parameters"}


def export_graph(module: GraphModule, sizes: Mapping[str, int], *, opset: int) -> ir.Model:
    """The module as a graph in which the symbols of its specification are free axes; custom ops are bare nodes.

    Args:
        module: in the precision that the graph is to have.
        sizes: the size of each symbol while tracing. Odd heights and widths give a graph that is right for all sizes:
            traced at even ones, the UNet leaves out the resizing that odd ones need.
        opset: ONNX opset.

    Raises:
        ExportError: the exporter failed.
    """
    spec = module.spec
    names = [{axis: s for axis, s in enumerate(tensor.shape) if isinstance(s, str)} for tensor in spec.inputs]
    free = [dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in names]
    try:
        with _quiet():
            # Captured here, as torch.onnx.export turns the UNet's tests of shapes into asserts and stumbles over them.
            inputs, axes = example_inputs(module, sizes), _as_passed(module, free)
            captured = torch.export.export(module, inputs, dynamic_shapes=axes, strict=False)
            program = torch.onnx.export(
                captured,
                opset_version=opset,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                dynamic_shapes=_as_passed(module, names),
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"torch.onnx.export failed: {reason}", subject=spec.name) from error
    assert program is not None
    for value, tensor in zip(program.model.graph.outputs, spec.outputs, strict=True):
        value.shape = ir.Shape(tensor.shape)  # the exporter writes formulas of the inputs' symbols
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, with this machine's paths
    return program.model


def _as_passed(module: GraphModule, axes: Sequence[Mapping[int, Any]]) -> tuple[Any, ...]:
    """One entry for each argument of `forward`; what it takes as `*added` is one entry together."""
    single = len(axes) - len(module.added)
    return (*axes[:single], tuple(axes[single:])) if module.added else tuple(axes)


def cut_graph(model: ir.Model, spec: ComponentSpec) -> None:
    """Leaves of a graph what the outputs of `spec` need; all inputs stay.

    Args:
        model: changed in place.
        spec: takes what the graph takes, and gives a part of what it gives.
    """
    wanted = {tensor.name for tensor in spec.outputs}
    for value in [value for value in model.graph.outputs if value.name not in wanted]:
        model.graph.outputs.remove(value)
    RemoveUnusedNodesPass()(model)


def example_inputs(module: GraphModule, sizes: Mapping[str, int], seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs of a module: shares and settings in [0.1, 1), ids within their limits, all else standard normal."""
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for tensor in module.spec.inputs:
        shape = [sizes[size] if isinstance(size, str) else size for size in tensor.shape]
        if tensor.dtype == "int64":
            inputs.append(torch.randint(module.limits[tensor.name], shape, generator=generator))
        elif tensor.name in _SHARES:
            inputs.append(0.1 + 0.9 * torch.rand(shape, generator=generator))
        else:
            inputs.append(torch.randn(shape, generator=generator))
    return tuple(inputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without the exporter's warnings, which concern its own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
