"""Masked attention in ONNX Runtime's own flash attention, in engines built for CPUs and those of large graphs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from segrefine.assets import demo_bundle
from segrefine.bundle import Bundle
from segrefine.engines import build_engine, load_engine, recipe
from segrefine.engines.onnxruntime.attention import with_flash_attention
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
    expected = attend_naive(*inputs.values(), scale=scale)
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=0, atol=1e-5)


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
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"model\.onnx does not load"):
        with_flash_attention(tmp_path / "model.onnx")
