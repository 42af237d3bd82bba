"""Masked attention in ONNX Runtime's own flash attention, in engines built for CPUs and those of large graphs."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx.parser import parse_function

from segrefine.assets import demo_bundle
from segrefine.bundle import Bundle
from segrefine.engines import build_engine, load_engine, recipe
from segrefine.engines.onnxruntime.attention import with_flash_attention
from segrefine.engines.onnxruntime.wire import read_fields, write_field
from segrefine.errors import EngineError
from segrefine.reference.attention import attend_naive
from tests.export.test_ops import attention_inputs, run_node


@pytest.mark.parametrize(("width", "rank"), [(40, 2), (64, 2), (62, 2), (9, 3), (160, 1)])
def test_it_is_the_naive_one(width: int, rank: int, tmp_path: Path) -> None:
    inputs, scale = attention_inputs(width, rank), width**-0.5
    _, model = run_node("MaskedAttention", inputs, scale=scale)
    ir.save(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(
        with_flash_attention(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (output,) = session.run(None, {name: values.numpy() for name, values in inputs.items()})
    expected = attend_naive(**inputs, scale=scale)
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=0, atol=1e-5)


FLASH = """
<domain: "ai.segrefine", opset_import: ["": 23, "com.microsoft": 1]>
MaskedAttention <scale> (q, k, v, a, b) => (output) {
    one = Constant <value_ints: ints = [1]> ()
    rest = Constant <value_ints: ints = [-1]> ()
    scale_value = Constant <value_float: float = @scale> ()
    heads = Shape <start = 1, end = 2> (q)
    spread = Concat <axis = 0> (one, heads, one, one)
    scaled_a = Div (a, scale_value)
    single_a = Unsqueeze (scaled_a, one)
    single_b = Unsqueeze (b, one)
    every_a = Expand (single_a, spread)
    every_b = Expand (single_b, spread)
    folded_q = Concat <axis = 3> (q, every_a)
    folded_k = Concat <axis = 3> (k, every_b)
    size_q = Shape <start = 2> (folded_q)
    size_k = Shape <start = 2> (folded_k)
    size_v = Shape <start = 2> (v)
    flat_size_q = Concat <axis = 0> (rest, size_q)
    flat_size_k = Concat <axis = 0> (rest, size_k)
    flat_size_v = Concat <axis = 0> (rest, size_v)
    flat_q = Reshape (folded_q, flat_size_q)
    flat_k = Reshape (folded_k, flat_size_k)
    flat_v = Reshape (v, flat_size_v)
    attended = com.microsoft.MultiHeadAttention <num_heads: int = 1, scale: float = @scale> (flat_q, flat_k, flat_v)
    size = Shape (q)
    output = Reshape (attended, size)
}
"""


@pytest.mark.parametrize("opset", [23, 24, 130])
def test_it_is_the_function_that_onnx_would_write(opset: int, tmp_path: Path) -> None:
    graph = Path(Bundle.open(demo_bundle()).graph("unet"))
    model = onnx.load(graph, load_external_data=False)
    [function] = [each for each in model.functions if each.name == "MaskedAttention"]
    function.opset_import[0].version = opset
    onnx.save(model, tmp_path / "model.onnx")
    function.CopyFrom(parse_function(FLASH))
    function.opset_import[0].version = opset
    model.opset_import.add(domain="com.microsoft", version=1)
    written = onnx.load_model_from_string(with_flash_attention(tmp_path / "model.onnx"))
    assert [str(each) for each in written.functions] == [str(each) for each in model.functions]
    assert written.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_it_needs_no_package_onnx() -> None:
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from segrefine.assets import demo_bundle\n"
        "from segrefine.engines.onnxruntime.attention import with_flash_attention\n"
        "print(len(with_flash_attention(demo_bundle() / 'unet/model.onnx')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000


numbers = st.integers(1, 2**29 - 1)


@given(st.lists(st.tuples(numbers, st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=300) | st.floats(width=32))))
def test_fields_are_read_as_they_were_written(fields: list[tuple[int, int | bytes | float]]) -> None:
    written = [write_field(*field) for field in fields]
    read = list(read_fields(b"".join(written)))
    assert [each.raw for each in read] == written and [each.number for each in read] == [n for n, _ in fields]
    for each, (_, value) in zip(read, fields, strict=True):
        packed = struct.pack("<f", value) if isinstance(value, float) else value
        assert each.value == (packed % 2**64 if isinstance(packed, int) else packed)


@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_refused(content: bytes) -> None:
    try:
        assert b"".join(each.raw for each in read_fields(content)) == content
    except ValueError as error:
        assert "byte" in str(error)


def test_engines_that_have_it_compute_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(shutil.copytree(demo_bundle(), tmp_path / "bundle"))
    rng = np.random.default_rng(0)
    feeds = {
        "sample": rng.standard_normal((2, 4, 16, 16), np.float32),
        "timestep": np.array([10, 900]),
        "encoder_hidden_states": rng.standard_normal((2, bundle.manifest.tokens, 128), np.float32),
        "foreground": rng.random((2, 1, 16, 16), np.float32),
        "token_indicator": rng.random((2, bundle.manifest.tokens, 2), np.float32),
        "strength": np.array([[2, 3], [0, 1]], np.float32),
    }
    with load_engine(bundle, "unet") as graph:
        expected = graph(feeds)["out_sample"]
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "LARGE", 0)
        with load_engine(bundle, "unet") as large:
            found = large(feeds)["out_sample"]
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert (found != expected).any()  # it was computed in another way
    [built] = build_engine(bundle, backend="onnxruntime", components=["unet"])
    operators = {node.op_type for node in onnx.load(built.path, load_external_data=False).graph.node}
    assert "MultiHeadAttention" in operators and "Attention" not in operators
    with load_engine(bundle, "unet") as engine:
        np.testing.assert_allclose(engine(feeds)["out_sample"], expected, atol=1e-4, rtol=0)


def test_unreadable_graph(tmp_path: Path) -> None:
    whole = (demo_bundle() / "unet/model.onnx").read_bytes()
    for content in (b"no graph", whole[:-3], whole[:1000]):
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(EngineError, match=r"model\.onnx: does not load"):
            with_flash_attention(tmp_path / "model.onnx")
