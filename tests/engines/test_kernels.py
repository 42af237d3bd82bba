"""The GPU kernels: computed on the GPU or by Triton's interpreter on the CPU, and compiled for every GPU."""

from __future__ import annotations

import filecmp
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

from benchmarks.gpu.launch import count_tiles, run_attention, run_hausdorff  # noqa: E402
from segrefine.engines.tensorrt.plugins import compile as compile_module  # noqa: E402
from segrefine.engines.tensorrt.plugins import kernels  # noqa: E402
from segrefine.engines.tensorrt.plugins.compile import (  # noqa: E402
    ARCHITECTURES,
    FOLDER,
    Variant,
    attention_variant,
    check_ptx,
    hausdorff_variant,
    list_variants,
)
from segrefine.reference.hausdorff import EMPTY, pixel_hausdorff  # noqa: E402

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
TYPES = {"fp32": torch.float32, "fp16": torch.float16}
TOLERANCE = {"fp32": 1e-5, "fp16": 3e-3}


class Compilation(NamedTuple):
    """Where the kernels were compiled to, what the program said, and what it compiled for."""

    folder: Path
    lines: list[str]
    architectures: tuple[str, ...]


def exact(inputs: Mapping[str, Tensor], visited: Tensor | None = None) -> Tensor:
    """In float64; a query that visits no key gives zeros."""
    q, k, v, a, b = (tensor.double() for tensor in inputs.values())
    scores = q.shape[3] ** -0.5 * q @ k.mT + (a @ b.mT)[:, None]
    if visited is not None:
        scores = scores.masked_fill(~visited, -torch.inf)
    return torch.nan_to_num(scores.softmax(-1)) @ v


def random_inputs(width: int, dtype: str, queries: int = 70, keys: int = 77, heads: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(width)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(TYPES[dtype])

    inputs = {"q": draw(2, heads, queries, width), "k": draw(2, heads, keys, width), "v": draw(2, heads, keys, width)}
    return inputs | {"a": draw(2, queries, 2), "b": 2 * draw(2, keys, 2)}


def attend(variant: Variant, **inputs: Tensor) -> Tensor:
    """What the attention kernel gives: of the GPU, or of the interpreter where there is none."""
    return run_attention(variant, **{name: each.to(DEVICE) for name, each in inputs.items()}).cpu()


def distances(variant: Variant, *inputs: Tensor) -> Tensor:
    """What the Hausdorff kernel gives, likewise."""
    return run_hausdorff(variant, *(each.to(DEVICE) for each in inputs)).cpu()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", range(32, 161, 8))
def test_attention_of_every_width(width: int, dtype: str) -> None:
    inputs = random_inputs(width, dtype)
    output = attend(attention_variant(dtype, width, sparse=False), **inputs)
    assert (output - exact(inputs)).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (64, 64), (129, 3), (5, 200)])
def test_attention_of_ragged_sizes(queries: int, keys: int, dtype: str) -> None:
    inputs = random_inputs(40, dtype, queries, keys)
    output = attend(attention_variant(dtype, 40, sparse=False), **inputs)
    assert (output - exact(inputs)).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("hidden", [0, 50, 77])
def test_biases_as_large_as_half_precision_has(hidden: int, dtype: str) -> None:
    inputs = random_inputs(64, dtype)
    inputs["a"][...] = torch.tensor([1.0, 0.0])
    inputs["b"][...] = 0
    inputs["b"][:, :hidden, 0] = -30000
    output = attend(attention_variant(dtype, 64, sparse=False), **inputs)
    # all keys alike in their bias: what is left of their differences is float32's resolution at 30000
    assert (output - exact(inputs)).abs().max() < (TOLERANCE[dtype] if hidden < 77 else 5e-3)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [40, 128])
def test_sparse_attention_visits_the_listed_tiles_alone(width: int, dtype: str) -> None:
    variant = attention_variant(dtype, width, sparse=True)
    inputs = random_inputs(width, dtype, 150, 170)
    shape = count_tiles(150, variant, "ROWS"), count_tiles(170, variant, "COLUMNS")
    kept = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1)) > 0.4
    kept[1, 0] = kept[:, :, 1] = False
    tiles = torch.zeros(2, shape[0], 1 + shape[1], dtype=torch.int32)
    for sample, row in torch.cartesian_prod(torch.arange(2), torch.arange(shape[0])).tolist():
        numbers = kept[sample, row].nonzero()[:, 0]
        tiles[sample, row, : 1 + len(numbers)] = torch.cat([torch.tensor([len(numbers)]), numbers])
    rows, columns = variant.constants["ROWS"], variant.constants["COLUMNS"]
    visited = kept.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
    expected = exact(inputs, visited[:, None, :150, :170])
    for name in "kv":  # what no query visits is not even read
        inputs[name][:, :, columns : 2 * columns] = torch.nan
    output = attend(variant, **inputs, tiles=tiles)
    assert (output - expected).abs().max() < TOLERANCE[dtype]
    assert (output[1, :, :rows] == 0).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "others", "channels"), [(70, 90, 32), (1, 1, 1), (65, 130, 100), (10, 3, 320)])
def test_hausdorff_of_ragged_sizes(rows: int, others: int, channels: int, dtype: str) -> None:
    generator = torch.Generator().manual_seed(channels)
    fa = torch.randn(2, rows, channels, generator=generator).to(TYPES[dtype])
    fb = torch.randn(2, others, channels, generator=generator).to(TYPES[dtype])
    fb[0, : min(rows, others) // 2] = fa[0, : min(rows, others) // 2]  # at a distance of zero
    w = torch.rand(2, others, generator=generator)
    expected = pixel_hausdorff(fa.double(), fb.double(), w)
    torch.testing.assert_close(distances(hausdorff_variant(dtype), fa, fb, w), expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_hausdorff_to_an_empty_set(share: float) -> None:
    fa, fb = torch.zeros(1, 5, 8), torch.ones(1, 40, 8)
    output = distances(hausdorff_variant("fp32"), fa, fb, torch.full((1, 40), share))
    foreground = share > 0.5
    assert (output[..., int(foreground)] == EMPTY).all()
    torch.testing.assert_close(output[..., int(not foreground)], torch.full((1, 5), 8**0.5))


def test_empty_is_the_references() -> None:
    assert kernels.EMPTY.value == EMPTY


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("sm_80", "sm_121"), id="oldest and newest"),
        pytest.param(ARCHITECTURES, id="all", marks=pytest.mark.slow),
    ],
)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compilation:
    """Every kernel, compiled by the Triton that is installed, and checked by ptxas: each GPU has one of two of them."""
    folder = tmp_path_factory.mktemp("kernels")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "segrefine.engines.tensorrt.plugins.compile", str(folder), *request.param]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # ptxas refused a kernel, or it takes too much
    return Compilation(folder, done.stdout.splitlines(), request.param)


def test_every_kernel_compiles_for_every_gpu(compiled: Compilation) -> None:
    assert {"sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103", "sm_110", "sm_120", "sm_121"} == set(
        ARCHITECTURES
    )
    assert compiled.lines[-1].endswith(f"accepted by ptxas for {', '.join(compiled.architectures)}")
    checked = {line.partition(":")[0] for line in compiled.lines[:-1]}
    assert checked == {variant.name for variant in list_variants()} and len(checked) == 30


def test_what_ships_is_what_the_kernels_compile_to(compiled: Compilation) -> None:
    names = [*(f"{variant.name}.ptx" for variant in list_variants() if variant.ships), "kernels.json"]
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(names)
    made_by = json.loads((FOLDER / "kernels.json").read_text())["triton"]
    if made_by != triton.__version__:  # another Triton compiles to another text: nothing to compare byte by byte
        pytest.skip(f"the kernels that ship were compiled by Triton {made_by}, {triton.__version__} is installed")
    assert filecmp.cmpfiles(FOLDER, compiled.folder, names, shallow=False) == (names, [], [])


def test_every_kernel_says_how_it_is_launched() -> None:
    launches: dict[str, Any] = json.loads((FOLDER / "kernels.json").read_text())["kernels"]
    shipped = [variant for variant in list_variants() if variant.ships]
    assert launches.keys() == {variant.name for variant in shipped}
    for variant in shipped:
        text, launched = (FOLDER / f"{variant.name}.ptx").read_text(), launches[variant.name]
        assert re.findall(r"\.visible \.entry (\w+)\(", text) == [launched["entry"]] == [variant.name]
        assert text.partition(".entry")[2].partition(")")[0].count(".param") == len(variant.types)
        assert launched["constants"] == variant.constants and launched["shared"] <= 48 << 10


@pytest.mark.parametrize(("limit", "message"), [("MOST_REGISTERS", "takes .* registers"), ("MOST_SPILLED", "spills")])
def test_a_kernel_that_takes_too_much_is_refused(monkeypatch: pytest.MonkeyPatch, limit: str, message: str) -> None:
    text = (FOLDER / "pixel_hausdorff_fp32.ptx").read_text()
    taken = check_ptx(text, "sm_86")
    assert 0 < taken.registers <= 255 and 0 <= taken.spilled <= 64
    least = {"MOST_REGISTERS": taken.registers, "MOST_SPILLED": taken.spilled}
    monkeypatch.setattr(compile_module, limit, least[limit] - 1)
    with pytest.raises(ValueError, match=message):
        check_ptx(text, "sm_86")


def test_ptxas_refuses_what_is_wrong() -> None:
    text = (FOLDER / "pixel_hausdorff_fp32.ptx").read_text()
    with pytest.raises(ValueError, match="ptxas refuses the kernel for sm_86"):
        check_ptx(text.replace("ld.param", "ld.parm", 1), "sm_86")
