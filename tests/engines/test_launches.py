"""The kernels on the very grid and scalars that the TensorRT plugins launch them with, between guard bands of NaN.

On a GPU they run there, else in Triton's interpreter. A read outside of a tensor gives NaN, a write outside is found in
the bands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
pytest.importorskip("tensorrt_lean_bindings")

from segrefine.engines.tensorrt.plugins.compile import list_variants  # noqa: E402
from segrefine.engines.tensorrt.plugins.registration import register_plugins  # noqa: E402
from segrefine.reference.hausdorff import pixel_hausdorff  # noqa: E402
from tests.engines.tensorrt_stand_in import Build, stand_in  # noqa: E402

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
TYPES = {"fp32": torch.float32, "fp16": torch.float16}
TOLERANCE = {"fp32": 1e-5, "fp16": 3e-3}
GUARD = 4096
"""Values on each side of a tensor: more than a tile reaches beyond the end."""


@pytest.fixture(scope="module")
def trt() -> Iterator[Any]:
    with stand_in() as module:
        register_plugins(module)
        yield module


class Guarded:
    """A tensor with a band of NaN on both sides."""

    def __init__(self, values: Tensor) -> None:
        size = values.numel()
        self._whole = torch.full((size + 2 * GUARD,), torch.nan, dtype=values.dtype, device=DEVICE)
        self.tensor = self._whole[GUARD : GUARD + size].view(values.shape)
        self.tensor.copy_(values)

    def is_intact(self) -> bool:
        """Whether nothing was written to the bands."""
        return bool(self._whole[:GUARD].isnan().all() and self._whole[-GUARD:].isnan().all())


def launch(build: Build, inputs: list[Tensor], output: Tensor) -> Tensor:
    """What the plugin's kernel writes, launched as the plugin asks for."""
    asked = build.launch()
    name = asked["kernel"] if isinstance(asked["kernel"], str) else asked["kernel"].decode()
    variant = next(each for each in list_variants() if each.name == name)
    assert asked["block_x"] == 32 * variant.warps and asked["grid_z"] == 1
    guarded = [Guarded(each) for each in (*inputs, torch.full_like(output, torch.nan))]
    tensors = [each.tensor for each in guarded]
    options = {"num_warps": variant.warps, "num_stages": variant.stages} if DEVICE == "cuda" else {}
    grid = asked["grid_x"], asked["grid_y"]
    variant.function[grid](*tensors[:-1], *asked["scalars"], tensors[-1], **variant.constants, **options)
    assert all(each.is_intact() for each in guarded), "written outside of a tensor"
    for given, each in zip(inputs, guarded, strict=False):
        assert torch.equal(each.tensor.cpu(), given), "an input was written to"
    return tensors[-1].cpu()


def attention_inputs(sizes: tuple[int, int, int, int], width: int, dtype: str) -> list[Tensor]:
    batch, heads, queries, keys = sizes
    generator = torch.Generator().manual_seed(width)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(TYPES[dtype])

    qkv = [draw(batch, heads, queries, width), draw(batch, heads, keys, width), draw(batch, heads, keys, width)]
    return [*qkv, draw(batch, queries, 2), 2 * draw(batch, keys, 2)]


SLOW = pytest.mark.slow
QUICK = [
    ("fp16", (1, 1, 4096, 77), 40),  # Stable Diffusion 1.5 at 512 pixels: from an image to a text
    ("fp16", (1, 1, 1024, 77), 80),
    ("fp16", (2, 1, 256, 77), 160),
    ("fp32", (2, 1, 100, 77), 160),
    ("fp32", (1, 2, 250, 77), 64),  # Stable Diffusion 2 and XL, a size that no tile divides
    ("fp16", (1, 2, 500, 77), 64),
    ("fp16", (1, 1, 256, 256), 160),  # from an image to itself
]
LONG = [
    *((dtype, (2, 8, 4096, 77), 40) for dtype in TYPES),
    *((dtype, (1, 1, 4096, 4096), 40) for dtype in TYPES),
    *((dtype, (2, 2, 1024, 1024), 80) for dtype in TYPES),
    *((dtype, (2, 8, 256, 77), 160) for dtype in TYPES),
]


@pytest.mark.parametrize(("dtype", "sizes", "width"), [*QUICK, *(pytest.param(*each, marks=SLOW) for each in LONG)])
def test_attention_on_the_grid_of_its_plugin(
    trt: Any, sizes: tuple[int, int, int, int], width: int, dtype: str
) -> None:
    q, k, v, a, b = inputs = attention_inputs(sizes, width, dtype)
    kind = trt.DataType.HALF if dtype == "fp16" else trt.DataType.FLOAT
    shapes = [(tuple(each.shape), kind) for each in inputs]
    fixed = {(0, 1), (0, 3), (1, 3), (2, 3), (3, 2), (4, 2)}
    output = launch(Build(trt, "MaskedAttention", shapes, fixed, scale=width**-0.5), inputs, q)
    scores = width**-0.5 * q.double() @ k.double().mT + (a.double() @ b.double().mT)[:, None]
    assert not output.isnan().any(), "read outside of a tensor, or left out"
    assert (output - scores.softmax(-1) @ v.double()).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("rows", "others", "channels"), [(130, 100, 64), (65, 70, 320), pytest.param(1024, 1024, 320, marks=SLOW)]
)
def test_hausdorff_on_the_grid_of_its_plugin(trt: Any, rows: int, others: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    fa, fb = (torch.randn(2, size, channels, generator=generator) for size in (rows, others))
    w = torch.rand(2, others, generator=generator)
    shapes = [(tuple(each.shape), trt.DataType.FLOAT) for each in (fa, fb, w)]
    build = Build(trt, "PixelHausdorff", shapes, {(0, 2), (1, 2)})
    output = launch(build, [fa, fb, w], torch.empty(2, rows, 2))
    assert not output.isnan().any(), "read outside of a tensor, or left out"
    torch.testing.assert_close(output, pixel_hausdorff(fa.double(), fb.double(), w).float(), atol=1e-5, rtol=1e-6)


def test_a_read_outside_of_a_tensor_is_found() -> None:
    guarded = Guarded(torch.zeros(4))
    beyond = torch.as_strided(guarded.tensor, (5,), (1,))
    assert beyond.isnan().any() and guarded.is_intact()
    beyond[4] = 0
    assert not guarded.is_intact()
