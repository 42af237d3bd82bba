"""Attention over many keys in OpenVINO: the parts put together are the whole."""

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from segrefine.assets import demo_bundle
from segrefine.bundle import Bundle
from segrefine.engines.openvino.attention import spread_attention
from segrefine.engines.openvino.engine import OpenVinoEngine
from segrefine.engines.openvino.long_attention import MOST_KEYS, split_long_attention
from segrefine.spec import ComponentSpec, TensorSpec


def attention(shapes, *, mask=0, causal=False, scale=0.3, dtype=np.float32):
    """A model that takes q, k and v, of these shapes, in float32, and computes in `dtype`."""
    inputs = [ops.parameter(shape, np.float32, name=name) for name, shape in zip("qkv", shapes, strict=True)]
    given = [ops.convert(each, openvino.Type(dtype)) for each in inputs] + [dtype(each) for each in (mask, scale)]
    found = ops.convert(ops.scaled_dot_product_attention(*given, causal=causal), openvino.Type.f32)
    found.output(0).set_names({"out_sample"})
    return openvino.Model([ops.result(found)], inputs)


def parts_of(model):
    return sum(node.get_type_name() == "ScaledDotProductAttention" for node in model.get_ops())


def run(model, feeds):
    """The output in float32, as the engine computes it."""
    spread_attention(model)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return next(iter(compiled(feeds).values()))


def exact(q, k, v):
    scores = q.astype(float) @ k.astype(float).swapaxes(2, 3)
    weights = np.exp(scores - scores.max(3, keepdims=True))
    return weights / weights.sum(3, keepdims=True) @ v


def draw(shapes, largest):
    """Queries, keys and values; `largest` is the scores' largest, at a scale of 1 and of either sign."""
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    return q * np.float32(largest / np.abs(q @ k.swapaxes(2, 3)).max()), k, v


@pytest.mark.parametrize(("keys", "parts"), [(256, 2), (320, 3), (300, 3), (129, 2)])
@pytest.mark.parametrize("width", [14, 15, 40, 48])
def test_parts_are_the_whole(keys, parts, width):
    shapes = [(2, 3, 50, 24), (2, 3, keys, 24), (2, 3, keys, width)]
    model, feeds = attention(shapes, scale=1), draw(shapes, 5)
    split_long_attention(model, 128)
    assert parts_of(model) == parts
    np.testing.assert_allclose(run(model, feeds), exact(*feeds), atol=1e-5)


@pytest.mark.parametrize("largest", [0, 80])
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_may_be_large_and_of_one_sign(largest, sign):
    shapes = [(1, 2, 50, 8), (1, 2, 256, 8), (1, 2, 256, 8)]
    q, k, v = draw(shapes, largest)
    feeds = sign * np.abs(q), np.abs(k), v
    feeds = feeds[0] * np.float32(largest / max(1e-9, np.abs(feeds[0] @ feeds[1].swapaxes(2, 3)).max())), *feeds[1:]
    model = attention(shapes, scale=1)
    split_long_attention(model, 64)
    assert parts_of(model) == 4
    np.testing.assert_allclose(run(model, feeds), exact(*feeds), atol=1e-4)


def test_what_is_short_or_has_a_mask_stays_whole():
    shapes = [(1, 2, 300, 8)] * 3
    short, causal, masked = attention(shapes), attention(shapes, causal=True), attention(shapes, mask=1)
    split_long_attention(short)
    for model in (causal, masked):
        split_long_attention(model, 64)
    assert [parts_of(model) for model in (short, causal, masked)] == [1, 1, 1]


def test_a_denoiser_stays_the_same():
    bundle = Bundle.open(demo_bundle())
    spec, random = bundle.manifest.components["unet"], np.random.default_rng(0)
    sizes = {"batch": 1, "height": 16, "width": 16, "tokens": 77}
    feeds = {
        tensor.name: random.uniform(size=[sizes[s] if isinstance(s, str) else s for s in tensor.shape]).astype(
            tensor.dtype
        )
        for tensor in spec.inputs
    }
    whole = OpenVinoEngine(bundle.graph("unet"), spec)._model
    whole.reshape({name: list(values.shape) for name, values in feeds.items()})
    split = whole.clone()
    split_long_attention(split, 128)
    assert parts_of(split) > parts_of(whole)
    expected, found = (run(model, feeds) for model in (whole, split))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(expected))


@pytest.fixture(params=[np.float32, np.float16])
def engine(request, tmp_path):
    """Of a model that is nothing but attention over more than a part's keys, in either precision."""
    shapes = [("batch", 2, tokens, 8) for tokens in ("queries", "keys", "keys")]
    spec = ComponentSpec(
        "attention",
        tuple(TensorSpec(name, "float32", shape) for name, shape in zip("qkv", shapes, strict=True)),
        (TensorSpec("out_sample", "float32", ("batch", 2, "queries", 8)),),
    )
    model = attention([[-1, 2, -1, 8]] * 3, scale=1, dtype=request.param)
    openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    with OpenVinoEngine(tmp_path / "model.xml", spec) as opened:
        yield opened


LONG = [(1, 2, 20, 8), *[(1, 2, MOST_KEYS + 100, 8)] * 2]


def test_the_engine_splits(engine):
    feeds = draw(LONG, 5)
    found = engine(dict(zip("qkv", feeds, strict=True)))["out_sample"]
    np.testing.assert_allclose(found, exact(*feeds), atol=1e-5)
    assert engine._splits


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_that_cannot_be_put_together_are_computed_whole(engine, sign):
    q, k, v = draw(LONG, 5)
    q, k = 20 * sign * (1 + np.abs(q)), 1 + np.abs(k)
    for _ in range(2):
        found = engine({"q": q, "k": k, "v": v})["out_sample"]
        np.testing.assert_allclose(found, exact(q, k, v), atol=1e-3)
    assert not engine._splits
