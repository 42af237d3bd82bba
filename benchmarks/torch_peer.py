"""PyTorch as those run it who know it: bfloat16, channels last, fused attention, nothing computed twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefine.reference.attention import Attend, inject_masks
from segrefine.reference.checkpoint import load_checkpoint
from segrefine.reference.g4seg import G4Seg, Strengths
from segrefine.reference.text import Text
from segrefine.settings import G4SegSettings


class OncePlainG4Seg(G4Seg):
    """The reference's loop, in which passes without the label are computed once for each noise level."""

    _plain: dict[int, Tensor]

    def refine(self, *arguments: Any) -> Any:
        """The refined probability of one image; see `G4Seg.refine`."""
        self._plain = {}
        return super().refine(*arguments)

    def denoise(
        self, sample: Tensor, t: int, text: Text, p: Tensor | None = None, strengths: Strengths = (0.0, 0.0)
    ) -> Tensor:
        """Clean latents (B, c, h, w) in one step; those without the label are kept."""
        if text is not self.unconditional:
            return super().denoise(sample, t, text, p, strengths)
        if t not in self._plain:
            self._plain[t] = super().denoise(sample, t, text, p, strengths)
        return self._plain[t]


class BFloatG4Seg(OncePlainG4Seg):
    """The loop on networks in bfloat16.

    Args:
        checkpoint: the model.
        settings: the method's numbers.
        taps: see `G4Seg`.
        attend: the attention under the mask's bias.
    """

    def __init__(self, checkpoint: Path, settings: G4SegSettings, taps: tuple[str, ...], attend: Attend) -> None:
        opened = load_checkpoint(checkpoint)
        super().__init__(opened, settings, taps)
        for part, outer in ((opened.unet, "sample"), (opened.vae.encoder, None), (opened.text_encoder, None)):
            _to_bfloat(part, outer)
        opened.vae.quant_conv.float()
        self.injector = inject_masks(opened.unet, attend)


def _to_bfloat(part: nn.Module, outer: str | None) -> None:
    """Have a network compute in bfloat16, channels last, with float32 around it.

    Args:
        part: the network.
        outer: attribute of its output that is the result; None where the output is the result, or holds several.
    """
    part.to(torch.bfloat16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def enter(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return tuple(_cast(each, torch.bfloat16) for each in arguments), {
            name: _cast(each, torch.bfloat16) for name, each in named.items()
        }

    def leave(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return output.float()
        for name in (outer,) if outer else tuple(output.keys()):
            output[name] = _cast(output[name], torch.float32)
        return output

    part.register_forward_pre_hook(enter, with_kwargs=True)
    part.register_forward_hook(leave)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    value = value.to(dtype)
    return value.to(memory_format=torch.channels_last) if value.ndim == 4 and dtype == torch.bfloat16 else value


def attend_masked(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Fused attention with the bias a bᵀ as its mask; see `segrefine.reference.attention.attend_naive`."""
    bias = (a @ b.transpose(-1, -2)).unsqueeze(1).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def attend_folded(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Fused attention with the bias folded into queries and keys, as two more channels of each head."""
    heads = q.shape[1]
    wide_q = torch.cat([q, (a / scale).to(q.dtype).unsqueeze(1).expand(-1, heads, -1, -1)], -1)
    wide_k = torch.cat([k, b.to(k.dtype).unsqueeze(1).expand(-1, heads, -1, -1)], -1)
    wide_v = F.pad(v, (0, a.shape[-1]))  # the fused kernel takes one width
    return F.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=scale)[..., : v.shape[-1]]


def faster_attention(open_step: Callable[[Attend], Callable[[], Any]]) -> Attend:
    """The faster of both, by one pass after a first one.

    Args:
        open_step: makes a pass of the UNet with an attention.
    """
    seconds = {}
    for attend in (attend_masked, attend_folded):
        step = open_step(attend)
        step()
        began = time.perf_counter()
        step()
        seconds[attend] = time.perf_counter() - began
    return min(seconds, key=lambda each: seconds[each])
