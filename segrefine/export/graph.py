"""One module → one ONNX graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from segrefine.errors import ExportError
from segrefine.export.functions import TRANSLATIONS
from segrefine.export.modules import GraphModule

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
    names = tuple({axis: s for axis, s in enumerate(tensor.shape) if isinstance(s, str)} for tensor in spec.inputs)
    free = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in names)
    try:
        with _quiet():
            # Captured here, as torch.onnx.export turns the UNet's tests of shapes into asserts and stumbles over them.
            captured = torch.export.export(module, example_inputs(module, sizes), dynamic_shapes=free, strict=False)
            program = torch.onnx.export(
                captured,
                opset_version=opset,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                dynamic_shapes=names,
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"{spec.name}: torch.onnx.export failed: {reason}") from error
    assert program is not None
    for value, tensor in zip(program.model.graph.outputs, spec.outputs, strict=True):
        value.shape = ir.Shape(tensor.shape)  # the exporter writes formulas of the inputs' symbols
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, with this machine's paths
    return program.model


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
def half_precision(module: GraphModule) -> Iterator[None]:
    """A context with the module in float16, its normalisations in float32; after it, rounded weights in float32.

    Raises:
        ExportError: a weight is larger than any float16.
    """
    norms = [each for each in module.modules() if isinstance(each, nn.GroupNorm | nn.LayerNorm)]
    _check_half(module, norms)
    module.half()
    handles = []
    for norm in norms:
        norm.float()
        handles.append(norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),)))
        handles.append(norm.register_forward_hook(lambda _, __, output: output.half()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        module.float()


def _check_half(module: GraphModule, norms: Sequence[nn.Module]) -> None:
    """Raises ExportError where a weight, but for those of `norms`, overflows in half precision."""
    kept, most = {id(weight) for norm in norms for weight in norm.parameters()}, torch.finfo(torch.float16).max
    for name, weight in module.named_parameters():
        if id(weight) not in kept and (largest := float(weight.detach().abs().max())) > most:
            component = module.spec.name
            raise ExportError(
                f"{component}: the weight {name} reaches {largest:.3g}, and half precision ends at {most:.0f}",
                hint=f"export with --fp32-components {component}",
            )


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
