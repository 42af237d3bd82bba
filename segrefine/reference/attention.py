"""Mask injection: a UNet whose attention is biased so that the foreground attends to the foreground and to its label.

At every attention layer the foreground probability p, pooled to the layer's grid, is added to the logits:

    self-attention    bias[q, k] = s_self  · (p_q p_k + (1 − p_q)(1 − p_k))
    cross-attention   bias[q, k] = s_cross · (p_q · is_label_k + (1 − p_q) · is_background_k)

Both have rank two: bias = a bᵀ with a = s · [p, 1 − p] over the queries and, over the keys, b = [p, 1 − p] or the two
indicators of the token. Here the bias is written out in full; the exported graph folds it into q and k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from segrefine.errors import ExportError, SettingsError, ShapeError

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""(q, k, v, a, b, scale) → softmax(scale · q kᵀ + a bᵀ) v; see `attend_naive` for the shapes."""


@dataclass(frozen=True, kw_only=True)
class MaskInjection:
    """Mask injected into one forward pass.

    Attributes:
        foreground: (B, 1, h, w) float in [0, 1], the probability of foreground on the latent grid.
        token_indicator: (B, T, 2) float; column 0: the token belongs to the label, column 1: it counts as background.
            A token with 0 in both is left alone.
        strength: (B, 2) float, added logits of self- and of cross-attention at full agreement; 0 injects nothing.
    """

    foreground: Tensor
    token_indicator: Tensor
    strength: Tensor

    def __post_init__(self) -> None:
        batch = self.foreground.shape[0]
        wanted = {"foreground": (batch, 1, "h", "w"), "token_indicator": (batch, "T", 2), "strength": (batch, 2)}
        for name, shape in wanted.items():
            got = tuple(getattr(self, name).shape)
            if len(got) != len(shape) or any(w != g for w, g in zip(shape, got, strict=True) if isinstance(w, int)):
                raise ShapeError(subject=f"mask injection: {name}", expected=f"shape {shape}", got=got)

    def sides(self, level: int) -> Tensor:
        """[p, 1 − p] on the grid of a level of the UNet, (B, N, 2).

        Level l has 2^l times fewer rows and columns, rounded up as the UNet's strided convolutions do; a cell at an odd
        border averages the pixels that it has.
        """
        cell = 2**level
        p = F.avg_pool2d(self.foreground, cell, ceil_mode=True, count_include_pad=False) if level else self.foreground
        return torch.cat([p, 1 - p], dim=1).flatten(2).transpose(1, 2)

    def factors(self, level: int, *, cross: bool) -> tuple[Tensor, Tensor]:
        """The bias as a (B, Nq, 2) and b (B, Nk, 2), whose product a bᵀ it is."""
        sides = self.sides(level)
        strength = self.strength[:, 1 if cross else 0, None, None]
        return strength * sides, self.token_indicator if cross else sides


def attend_naive(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """softmax(scale · q kᵀ + a bᵀ) v, (B, H, Nq, D), with the Nq×Nk bias written out.

    Args:
        q: (B, H, Nq, D).
        k: (B, H, Nk, D).
        v: (B, H, Nk, D).
        a: (B, Nq, R), one for all heads.
        b: (B, Nk, R).
        scale: of the product of q and k alone.
    """
    return biased_logits(q, k, a, b, scale).softmax(dim=-1) @ v


def biased_logits(q: Tensor, k: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Scale · q kᵀ + a bᵀ, (B, H, Nq, Nk); see `attend_naive`."""
    bias = (a @ b.transpose(-1, -2)).unsqueeze(1)
    return scale * (q @ k.transpose(-1, -2)) + bias


class Record(Protocol):
    """Takes the attention of layers; see `segrefine.reference.attention_maps`."""

    def __call__(self, layer: str, logits: Callable[[], Tensor], indicator: Tensor | None) -> None:
        """Take one layer.

        Args:
            layer: its name.
            logits: gives (B, H, Nq, Nk), the attention before the softmax, with the mask's bias.
            indicator: (B, T, 2) of cross-attention, see `MaskInjection`; None of self-attention.
        """


class MaskInjector:
    """Switches the mask injection of one UNet on, for the time of a `with` block."""

    def __init__(self) -> None:
        self.injection: MaskInjection | None = None
        self.record: Record | None = None

    @contextmanager
    def apply(self, injection: MaskInjection, record: Record | None = None) -> Iterator[None]:
        """Inject into every forward pass inside the block; outside, the UNet is diffusers' own.

        Args:
            injection: what is injected.
            record: takes the attention of every layer; None: nobody looks.
        """
        outer = self.injection, self.record
        self.injection, self.record = injection, record
        try:
            yield
        finally:
            self.injection, self.record = outer


class MaskInjectionProcessor:
    """A diffusers attention processor that adds the injector's bias to the logits.

    Args:
        injector: says what to inject; while it holds nothing, diffusers' own processor runs.
        name: of the layer.
        level: the layer's depth in the UNet; its grid is 2^level times coarser than the latents.
        attend: the attention itself.
    """

    def __init__(self, injector: MaskInjector, name: str, level: int, attend: Attend) -> None:
        self.injector, self.name, self.level, self.attend = injector, name, level, attend
        self.untouched: Callable[..., Tensor] = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """The layer's output, in the shape of `hidden_states`: (B, N, C), or (B, C, h, w) outside of transformers."""
        injection = self.injector.injection
        if injection is None:
            return self.untouched(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if attention_mask is not None:
            raise SettingsError("an attention mask cannot be combined with mask injection", hint="pass one of the two")
        rows = hidden_states.flatten(2).transpose(1, 2) if hidden_states.ndim == 4 else hidden_states
        q, k, v = _project(attn, rows, encoder_hidden_states)
        cross = encoder_hidden_states is not None
        a, b = (each.to(q.dtype) for each in injection.factors(self.level, cross=cross))
        attended = self.attend(q, k, v, a, b, attn.scale)
        if self.injector.record:
            logits = partial(biased_logits, q, k, a, b, attn.scale)
            self.injector.record(self.name, logits, injection.token_indicator if cross else None)
        output: Tensor = attn.to_out[0](attended.to(rows.dtype).transpose(1, 2).flatten(2))
        if hidden_states.ndim == 4:
            output = output.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            output = output + hidden_states
        output = output / attn.rescale_output_factor
        return output


def _project(attn: Attention, rows: Tensor, encoder_hidden_states: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, heads, N, D) of a layer; in float32 where the model asks for it (SD 2.1 does)."""
    if attn.group_norm is not None:
        rows = attn.group_norm(rows.transpose(1, 2)).transpose(1, 2)
    if encoder_hidden_states is None:
        context = rows
    else:
        context = attn.norm_encoder_hidden_states(encoder_hidden_states) if attn.norm_cross else encoder_hidden_states
    q, k, v = (
        projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for projected in (attn.to_q(rows), attn.to_k(context), attn.to_v(context))
    )
    return (q.float(), k.float(), v.float()) if attn.upcast_attention else (q, k, v)


def inject_masks(unet: UNet2DConditionModel, attend: Attend = attend_naive) -> MaskInjector:
    """The switch of a UNet into which masks can now be injected; while it is off, the UNet computes what it did before.

    Args:
        unet: changed in place: every attention layer gets a `MaskInjectionProcessor`.
        attend: the attention that every layer computes while the switch is on.

    Raises:
        ExportError: the UNet has attention layers of another kind than Stable Diffusion's.
    """
    injector, levels = MaskInjector(), len(unet.down_blocks)
    for name, processor in unet.attn_processors.items():
        if not isinstance(processor, AttnProcessor2_0 | MaskInjectionProcessor):
            found = type(processor).__name__
            raise ExportError(
                subject=f"attention layer {name!r}",
                expected="Stable Diffusion's AttnProcessor2_0",
                got=found,
                hint="export a model whose attention was not changed",
            )
    unet.set_attn_processor(
        {name: MaskInjectionProcessor(injector, name, level_of(name, levels), attend) for name in unet.attn_processors}
    )
    return injector


def level_of(name: str, levels: int) -> int:
    """The depth of a named submodule: down block i → i, middle → the last, up block i → last − i."""
    block, index, *_ = name.split(".")
    match block:
        case "down_blocks":
            return int(index)
        case "up_blocks":
            return levels - 1 - int(index)
        case _:
            return levels - 1
