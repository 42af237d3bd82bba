"""Memory of a run, estimated before it starts.

The activations are counted, not guessed: a forward pass on PyTorch's `meta` device, which has shapes and no numbers,
records every tensor that the backward pass keeps.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segrefine.errors import SettingsError
from segrefine.train.batches import Batch
from segrefine.train.options import TrainOptions
from segrefine.train.trainee import Trainee

_OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2}
_OVERHEAD = 0.6 * 2**30
"""Bytes of the libraries themselves."""
_BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock")
"""The blocks of a denoiser that gradient checkpointing computes again."""
_SCRATCH = 1.15
"""Temporary tensors, as a factor on the activations."""


@dataclass(frozen=True, kw_only=True)
class PeakMemory:
    """The peak memory of a run, in bytes.

    Attributes:
        weights: of all networks.
        training: gradients, optimizer and averages of the weights that are trained.
        activations: what the backward pass keeps of one part of a batch.
    """

    weights: int
    training: int
    activations: int

    @property
    def total(self) -> int:
        """The sum, with the libraries."""
        return int(self.weights + self.training + _SCRATCH * self.activations + _OVERHEAD)

    def __str__(self) -> str:
        parts = (("weights", self.weights), ("gradients and optimizer", self.training),
                 ("activations", self.activations))  # fmt: skip
        words = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in parts)
        return f"about {self.total / 2**30:.1f} GiB ({words})"


def estimate(trainee: Trainee, batch: Batch, options: TrainOptions) -> PeakMemory:
    """The memory of a run.

    Args:
        trainee: the networks.
        batch: one part of a batch, as large as the run's.
        options: the run's options.
    """
    trained = sum(weight.numel() for weight in trainee.trained().values())
    each = 4 + _OPTIMIZER_BYTES[options.optimizer] + 4  # gradient, optimizer, average
    weights = sum(weight.numel() * weight.element_size() for weight in trainee.parameters())
    return PeakMemory(weights=weights, training=trained * each, activations=count_activations(trainee, batch, options))


def count_activations(trainee: Trainee, batch: Batch, options: TrainOptions) -> int:
    """Bytes of the tensors that the backward pass of a batch keeps.

    With checkpointing, a block keeps its output alone, and one block at a time is computed again.
    """
    ghost = _to_meta(trainee)
    counter = _Counter()
    if options.checkpointing:
        ghost.label_denoiser.disable_gradient_checkpointing()
        for module in ghost.label_denoiser.modules():
            if type(module).__name__ in _BLOCKS:
                counter.watch(module)
    with _FusedAttention(), torch.autograd.graph.saved_tensors_hooks(counter.note, lambda tensor: tensor):
        ghost(batch.to(torch.device("meta")), 0.0)
    factor = 0.5 if options.precision != "fp32" else 1.0
    return int(counter.total * factor)


class _FusedAttention(TorchFunctionMode):
    """Has attention keep what fused kernels keep. On `meta`, PyTorch would keep the matrix of all pairs of cells."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace attention by the fused kernel; leave all else as it is."""
        given = kwargs or {}
        if func is not F.scaled_dot_product_attention or "enable_gqa" in given and given["enable_gqa"]:
            return func(*args, **given)
        named = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)) | given
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return fused(
            named["query"], named["key"], named["value"], named.get("dropout_p", 0.0), named.get("is_causal", False),
            attn_mask=named.get("attn_mask"), scale=named.get("scale"),
        )[0]  # fmt: skip


class _Counter:
    """Adds up the tensors that are kept, each storage once."""

    def __init__(self) -> None:
        self._kept: dict[int, torch.UntypedStorage] = {}
        self._outside, self._outputs, self._blocks = 0, 0, [0]
        self._inside = False

    @property
    def total(self) -> int:
        """Bytes that are kept at the peak."""
        return self._outside + self._outputs + max(self._blocks)

    def note(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is kept."""
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter) and storage._cdata not in self._kept:
            self._kept[storage._cdata] = storage  # kept alive, so that no other gets its address
            if self._inside:
                self._blocks[-1] += storage.nbytes()
            else:
                self._outside += storage.nbytes()
        return tensor

    def watch(self, block: nn.Module) -> None:
        """Count what a block keeps apart from the others."""

        def enter(*_: object) -> None:
            self._inside = True
            self._blocks.append(0)

        def leave(_module: nn.Module, _inputs: object, output: object) -> None:
            self._inside = False
            if isinstance(output, Tensor):
                self._outputs += output.untyped_storage().nbytes()

        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)


def _to_meta(trainee: Trainee) -> Trainee:
    """A copy of the networks without numbers; no memory is taken for it."""
    memo: dict[int, object] = {}
    for weight in trainee.parameters():
        memo[id(weight)] = nn.Parameter(weight.detach().to("meta"), requires_grad=weight.requires_grad)
    for buffer in trainee.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(trainee, memo)


def check_memory(memory: PeakMemory, available: int, options: TrainOptions) -> None:
    """Check that a run fits.

    Raises:
        SettingsError: it takes more than there is; the hint says what to change.
    """
    if memory.total <= available:
        return
    hints = []
    if not options.checkpointing:
        hints.append("--checkpointing")
    if options.batch > options.phrases * options.accumulate:
        hints.append(f"--accumulate {2 * options.accumulate}")
    if not options.lora:
        hints.append("--lora 16")
    raise SettingsError(
        f"training needs {memory}, and {available / 2**30:.1f} GiB are free",
        hint=f"add {' or '.join(hints) or 'memory'}; --ignore-memory starts anyway",
    )
