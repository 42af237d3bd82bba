"""The TensorRT plugins in TensorRT's own front end, without its builder and without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from segrefine.engines.tensorrt.plugins.registration import register_plugins

pytest.importorskip("tensorrt_lean_bindings")

from tests.engines.tensorrt_stand_in import Build, stand_in  # noqa: E402


@pytest.fixture(scope="module")
def trt() -> Iterator[Any]:
    with stand_in() as module:
        register_plugins(module)
        yield module


def attention(trt: Any, width: int, dtype: Any, *, scale: float | None = None, rank: int = 2) -> Build:
    q, kv = (2, 8, 4096, width), (2, 8, 77, width)
    shapes: list[tuple[int, ...]] = [q, kv, kv, (2, 4096, rank), (2, 77, rank)]
    inputs = [(shape, dtype) for shape in shapes]
    fixed = {(0, 1), (0, 3), (1, 3), (2, 3), (3, 2), (4, 2)}
    return Build(trt, "MaskedAttention", inputs, fixed, scale=scale or width**-0.5)


def test_both_ops_are_in_the_registry_under_the_names_that_graphs_use(trt: Any) -> None:
    creators = trt.get_plugin_registry().all_creators
    ours = {(each.name, each.plugin_version) for each in creators if each.plugin_namespace == "segrefine"}
    assert ours == {("MaskedAttention", "1"), ("PixelHausdorff", "1")}


@pytest.mark.parametrize("kind", ["HALF", "FLOAT"])
@pytest.mark.parametrize("width", [32, 40, 64, 80, 96, 128, 160])
def test_attention_is_launched_on_every_tile_of_every_head(trt: Any, width: int, kind: str) -> None:
    dtype = getattr(trt.DataType, kind)
    build = attention(trt, width, dtype)
    assert build.output_shape == (2, 8, 4096, width) and build.output_types == [dtype]
    assert build.formats() == [[trt.DataType.HALF] * 6, [trt.DataType.FLOAT] * 6]
    launched = build.launch()
    rows = 64 if kind == "HALF" else 32
    assert (launched["grid_x"], launched["grid_y"], launched["grid_z"]) == (4096 // rows, 16, 1)
    assert launched["block_x"] == (256 if width > 128 else 128) and 0 < launched["shared_mem"] <= 48 << 10
    assert launched["scalars"] == [8, 4096, 77]
    name = f"masked_attention_{'fp16' if kind == 'HALF' else 'fp32'}_{width}"  # no two kernels share a name
    assert launched["kernel"] in (name, name.encode()) and f".entry {name}(" in launched["text"]
    declared = launched["text"].partition(".entry")[2].partition(")")[0]
    assert declared.count(".u64") == 6 and declared.count(".u32") == 3  # five inputs and the output, the three sizes


def test_hausdorff_is_launched_on_every_block_of_rows(trt: Any) -> None:
    single = trt.DataType.FLOAT
    inputs = [((2, 4000, 1280), single), ((2, 1024, 1280), single), ((2, 1024), single)]
    build = Build(trt, "PixelHausdorff", inputs, {(0, 2), (1, 2)})
    assert build.output_shape == (2, 4000, 2) and build.output_types == [single]
    assert build.formats() == [[single] * 4]
    launched = build.launch()
    assert (launched["grid_x"], launched["grid_y"]) == (63, 2) and launched["block_x"] == 256
    assert launched["scalars"] == [4000, 1024, 1280]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 48}, "no kernel masked_attention_fp16_48"),
        ({"width": 64, "scale": 1.0}, "scale 0.125, the graph has rank 2 and scale 1"),
        ({"width": 64, "rank": 4}, "rank 2 and scale 0.125, the graph has rank 4"),
    ],
)
def test_what_no_kernel_was_compiled_for(trt: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention(trt, dtype=trt.DataType.HALF, **changes).launch()


def test_a_width_that_is_free_is_refused(trt: Any) -> None:
    shapes = [(2, 8, 64, 40)] * 3 + [(2, 64, 2)] * 2
    build = Build(trt, "MaskedAttention", [(shape, trt.DataType.HALF) for shape in shapes], set(), scale=40**-0.5)
    with pytest.raises(ValueError, match="width of a head must be fixed"):
        build.launch()
