"""The custom ops' kernels on a GPU, beside torch's fused attention and the GPU's own peak.

python -m benchmarks.gpu.kernels      writes benchmarks/results/gpu_kernels.{json,md}
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.device import name_of, require_gpu, time_in_turns
from benchmarks.gpu.launch import count_tiles, run_attention, run_hausdorff
from benchmarks.report import markdown_table, write_result
from segrefine.engines.tensorrt.plugins.compile import Variant, attention_variant, hausdorff_variant
from segrefine.reference.hausdorff import pixel_hausdorff

WIDTHS, HEADS, BATCH, RANK, CHANNELS = (40, 64, 80, 160), 8, 2, 2, 640
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
TOLERANCES = {"fp16": 3e-3, "fp32": 1e-5}
TITLE = "Kernels on a GPU"


@click.command()
@click.option("--pixels", default=4096, show_default=True, help="Queries, and keys.")
@click.option("--repeats", default=50, show_default=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
def main(pixels: int, repeats: int, device: str) -> None:
    """Measure the kernels; `--device cpu`, with TRITON_INTERPRET=1, only tries the program out and writes nothing."""
    if device == "cuda":
        require_gpu("gpu_kernels", TITLE)
    torch.manual_seed(0)
    peak = {name: _peak(dtype, device, repeats) for name, dtype in DTYPES.items()}
    rows = [_attention(width, dtype, pixels, device, repeats, peak[dtype]) for dtype in DTYPES for width in WIDTHS]
    distances = [_hausdorff(dtype, pixels, device, repeats) for dtype in DTYPES]
    worst = max(float(row["÷ plain"]) for row in rows if row["type"] == "fp16")
    markdown = "\n\n".join(
        [
            f"# {TITLE}",
            f"{name_of(device)}; batch {BATCH}, {HEADS} heads, {pixels} queries and keys, bias of rank {RANK}; "
            f"medians of {repeats} calls.",
            f"**Masked attention ÷ torch's plain fused attention, at worst, fp16 = {worst:.2f}** (bar: 1.15).",
            "Share: of this GPU's own rate in a large matrix product of the type. Half: the sparse kernel with every "
            "other tile of keys left out. Error: of the kernel, against float64.",
            markdown_table(list(rows[0]), [list(row.values()) for row in rows]),
            "## Pixel-wise Hausdorff distance",
            markdown_table(list(distances[0]), [list(row.values()) for row in distances]),
        ]
    )
    click.echo(markdown)
    if device == "cuda":
        write_result("gpu_kernels", {"attention": rows, "hausdorff": distances, "peak_flops": peak}, markdown)
    errors = [
        (row, float(row[kind])) for row in (*rows, *distances) for kind in ("error", "half's error") if kind in row
    ]
    if wrong := [row for row, error in errors if not error <= TOLERANCES[row["type"]]]:
        raise click.ClickException(f"kernels are past their tolerance: {wrong}")


def _attention(width: int, dtype: str, pixels: int, device: str, repeats: int, peak: float) -> dict[str, str]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(DTYPES[dtype])

    q, k, v = (draw(BATCH, HEADS, pixels, width) for _ in range(3))
    a, b = draw(BATCH, pixels, RANK), draw(BATCH, pixels, RANK)
    scale, spare = width**-0.5, -(width + RANK) % 8
    columns = (F.pad(each, (0, spare))[:, None].expand(-1, HEADS, -1, -1) for each in (a / scale, b))
    wide_q, wide_k = (torch.cat(pair, 3) for pair in zip((q, k), columns, strict=True))
    wide_v = F.pad(v, (0, RANK + spare))
    dense, sparse = (attention_variant(dtype, width, sparse=each) for each in (False, True))
    tiles = _every_other_tile(pixels, sparse, device)
    runs: dict[str, Callable[[], Tensor]] = {
        "plain": partial(F.scaled_dot_product_attention, q, k, v),
        "kernel": partial(run_attention, dense, q, k, v, a, b),
        "folded": partial(F.scaled_dot_product_attention, wide_q, wide_k, wide_v, scale=scale),
        "matrix": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=(a @ b.mT)[:, None]),
        "half": partial(run_attention, sparse, q, k, v, a, b, tiles),
    }
    seconds = time_in_turns(runs, device, repeats)
    some = slice(0, 64)
    scores = scale * q[:, :, some].double() @ k.double().mT + (a[:, some].double() @ b.double().mT)[:, None]
    tile = torch.arange(pixels, device=device) // int(sparse.constants["COLUMNS"])
    visited = scores.masked_fill(tile % 2 == 1, -torch.inf)
    errors = {
        name: float((runs[name]()[:, :, some] - expected.softmax(-1) @ v.double()).abs().max())
        for name, expected in (("kernel", scores), ("half", visited))
    }
    flops = 4 * BATCH * HEADS * pixels**2 * width
    return {
        "type": dtype,
        "width": str(width),
        **{f"{name} ms": f"{1e3 * each:.3f}" for name, each in seconds.items()},
        "÷ plain": f"{seconds['kernel'] / seconds['plain']:.2f}",
        "share": f"{flops / seconds['kernel'] / peak:.0%}",
        "error": f"{errors['kernel']:.0e}",
        "half's error": f"{errors['half']:.0e}",
    }


def _every_other_tile(pixels: int, variant: Variant, device: str) -> Tensor:
    rows, columns = (count_tiles(pixels, variant, side) for side in ("ROWS", "COLUMNS"))
    kept = torch.arange(0, columns, 2)
    tiles = torch.zeros(BATCH, rows, 1 + columns, dtype=torch.int32)
    tiles[..., 0], tiles[..., 1 : 1 + len(kept)] = len(kept), kept
    return tiles.to(device)


def _hausdorff(dtype: str, pixels: int, device: str, repeats: int) -> dict[str, str]:
    fa, fb = (F.normalize(torch.randn(1, pixels, CHANNELS, device=device), dim=2).to(DTYPES[dtype]) for _ in range(2))
    w = (torch.rand(1, pixels, device=device) > 0.5).float()
    variant = hausdorff_variant(dtype)
    runs = {"kernel": partial(run_hausdorff, variant, fa, fb, w), "torch": partial(pixel_hausdorff, fa, fb, w)}
    seconds = time_in_turns(runs, device, repeats)
    error = (runs["kernel"]() - runs["torch"]()).abs().max()
    return {
        "type": dtype,
        **{f"{name} ms": f"{1e3 * each:.3f}" for name, each in seconds.items()},
        "torch ÷ kernel": f"{seconds['torch'] / seconds['kernel']:.2f}",
        "error": f"{float(error):.0e}",
    }


def _peak(dtype: torch.dtype, device: str, repeats: int) -> float:
    side = 8192 if device == "cuda" else 256
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / time_in_turns({"product": lambda: left @ right}, device, repeats)["product"]


if __name__ == "__main__":
    main()
