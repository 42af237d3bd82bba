"""The Triton kernels, launched on tensors of torch: on a GPU, or on the CPU by Triton's interpreter."""

from __future__ import annotations

import torch
from torch import Tensor

from segrefine.engines.tensorrt.plugins.compile import Variant


def count_tiles(size: int, variant: Variant, side: str) -> int:
    """Count the tiles of the variant's ROWS or COLUMNS that cover `size`."""
    return -(-size // int(variant.constants[side]))


def run_attention(
    variant: Variant, q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, tiles: Tensor | None = None
) -> Tensor:
    """Masked attention, (B, H, Nq, D); with `tiles` the sparse variant's, see `kernels`."""
    output = torch.full_like(q, torch.nan)
    grid = count_tiles(q.shape[2], variant, "ROWS"), q.shape[0] * q.shape[1]
    inputs = q, k, v, a, b, *([] if tiles is None else [tiles])
    _launch(variant, grid, *inputs, q.shape[1], q.shape[2], k.shape[2], output)
    return output


def run_hausdorff(variant: Variant, fa: Tensor, fb: Tensor, w: Tensor) -> Tensor:
    """Pixel-wise Hausdorff distances, float32 (B, N, 2)."""
    output = torch.full((*fa.shape[:2], 2), torch.nan, device=fa.device)
    grid = count_tiles(fa.shape[1], variant, "ROWS"), fa.shape[0]
    _launch(variant, grid, fa, fb, w, fa.shape[1], fb.shape[1], fa.shape[2], output)
    return output


def _launch(variant: Variant, grid: tuple[int, int], *arguments: Tensor | int) -> None:
    options = {"num_warps": variant.warps, "num_stages": variant.stages} if arguments[0].is_cuda else {}  # type: ignore[union-attr]
    variant.function[grid](*arguments, **variant.constants, **options)
