"""Half precision: what computes in it while a graph is traced, and what that graph is then held against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from segrefine.errors import ExportError
from segrefine.export.modules import GraphModule


@contextmanager
def half_precision(module: GraphModule) -> Iterator[None]:
    """A context with the module in float16, its normalisations in float32; after it they have rounded weights.

    Raises:
        ExportError: a weight is larger than any float16.
    """
    _halve(module)
    norms = [each for each in module.modules() if isinstance(each, nn.GroupNorm | nn.LayerNorm)]
    module.compute_dtype = torch.float16
    with ExitStack() as stack:
        for norm in norms:
            norm.float()
            stack.callback(norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),)).remove)
            stack.callback(norm.register_forward_hook(lambda _, __, output: output.half()).remove)
        try:
            yield
        finally:
            module.compute_dtype = torch.float32


@contextmanager
def widened(module: nn.Module) -> Iterator[None]:
    """A context in which a module computes in float32 whatever its weights are: each layer's are widened as it runs."""

    def widen(layer: nn.Module, _: Any) -> None:
        stored[layer] = {name: weight.data for name, weight in layer.named_parameters(recurse=False)}
        for name, data in stored[layer].items():
            getattr(layer, name).data = data.float()

    def restore(layer: nn.Module, _: Any, __: Any) -> None:
        for name, data in stored.pop(layer).items():
            getattr(layer, name).data = data

    stored: dict[nn.Module, dict[str, Tensor]] = {}
    with ExitStack() as stack:
        for layer in module.modules():
            if any(weight.dtype != torch.float32 for weight in layer.parameters(recurse=False)):
                stack.callback(layer.register_forward_pre_hook(widen).remove)
                stack.callback(layer.register_forward_hook(restore).remove)
        yield


def _halve(module: GraphModule) -> None:
    """Rounds the weights, one after another.

    Raises:
        ExportError: one of them overflows.
    """
    most = torch.finfo(torch.float16).max
    for name, weight in module.named_parameters():
        rounded = weight.data.half()
        if not rounded.isfinite().all():
            component, largest = module.spec.name, float(weight.abs().max())
            raise ExportError(
                f"the weight {name} is too large for half precision",
                subject=component,
                expected=f"at most {most:.0f}",
                got=f"{largest:.3g}",
                hint=f"export with --fp32-components {component}",
            )
        weight.data = rounded
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.half()
