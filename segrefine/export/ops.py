"""The custom ops in torch: the exporter sees one node each, and what it computes is the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from segrefine.reference.attention import attend_naive
from segrefine.reference.hausdorff import pixel_hausdorff as reference_hausdorff

DOMAIN = "ai.segrefine"


@torch.library.custom_op("segrefine::masked_attention", mutates_args=())
def masked_attention(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """The reference's `attend_naive`, (B, H, Nq, D)."""
    return attend_naive(q, k, v, a, b, scale)


@masked_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op("segrefine::pixel_hausdorff", mutates_args=())
def pixel_hausdorff(fa: Tensor, fb: Tensor, w: Tensor) -> Tensor:
    """The reference's `pixel_hausdorff`, (B, N, 2) float32."""
    return reference_hausdorff(fa, fb, w)


@pixel_hausdorff.register_fake
def _(fa: Tensor, fb: Tensor, w: Tensor) -> Tensor:
    return fa.new_empty((fa.shape[0], fa.shape[1], 2), dtype=torch.float32)
