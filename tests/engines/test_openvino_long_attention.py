"""Attention over many keys in OpenVINO: the parts put together are the whole."""

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from segrefine.assets import demo_bundle
from segrefine.bundle import Bundle
from segrefine.engines.openvino import OpenVinoEngine
from segrefine.engines.openvino_attention import spread_attention
from segrefine.engines.openvino_long_attention import MOST_KEYS, split_long_attention
from segrefine.spec import ComponentSpec, TensorSpec


def attention(shapes, *, mask=None, causal=False, scale=0.3):
    """A model that takes q, k and v, of these shapes."""
    inputs = [ops.parameter(shape, np.float32, name=name) for name, shape in zip("qkv", shapes, strict=True)]
    given = [] if scale is None else [np.float32(0) if mask is None else mask, np.float32(scale)]
    found = ops.scaled_dot_product_attention(*inputs, *given, causal=causal)
    found.output(0).set_names({"out_sample"})
    return openvino.Model([ops.result(found)], inputs)


def parts_of(model):
    return sum(node.get_type_name() == "ScaledDotProductAttention" for node in model.get_ops())


def run(model, feeds):
    """The output in float32, as the engine computes it."""
    spread_attention(model)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return next(iter(compiled(feeds).values()))


def exact(q, k, v, scale):
    scores = q.astype(float) @ k.astype(float).swapaxes(2, 3) * scale
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
    np.testing.assert_allclose(run(model, feeds), exact(*feeds, 1), atol=1e-5)


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
    np.testing.assert_allclose(run(model, feeds), exact(*feeds, 1), atol=1e-4)


def test_what_is_short_or_has_a_mask_stays_whole():
    shapes = [(1, 2, 300, 8)] * 3
    short, causal, masked = attention(shapes), attention(shapes, causal=True), attention(shapes, mask=np.float32(1))
    split_long_attention(short)
    for model in (causal, masked):
        split_long_attention(model, 64)
    assert [parts_of(model) for model in (short, causal, masked)] == [1, 1, 1]


def test_a_denoiser_stays_the_same():
    bundle = Bundle.open(demo_bundle())
    spec, random = bundle.manifest.components["unet"], np.random.default_rng(0)
    sizes = {"batch": 1, "height": 16, "width": 16, "tokens": 77}
    feeds = {
        tensor.name: random.uniform(size=[sizes.get(size, size) for size in tensor.shape]).astype(tensor.dtype)
        for tensor in spec.inputs
    }
    whole = OpenVinoEngine(bundle.graph("unet"), spec)._model
    whole.reshape({name: list(values.shape) for name, values in feeds.items()})
    split = whole.clone()
    split_long_attention(split, 128)
    assert parts_of(split) > parts_of(whole)
    expected, found = (run(model, feeds) for model in (whole, split))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(expected))


def test_the_engine_splits(tmp_path):
    shapes = [("batch", 2, tokens, 8) for tokens in ("queries", "keys", "keys")]
    spec = ComponentSpec(
        "attention",
        tuple(TensorSpec(name, "float32", shape) for name, shape in zip("qkv", shapes, strict=True)),
        (TensorSpec("out_sample", "float32", ("batch", 2, "queries", 8)),),
    )
    model = attention([[-1, 2, -1, 8]] * 3, scale=1)
    openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    feeds = draw([(1, 2, 20, 8), *[(1, 2, MOST_KEYS + 100, 8)] * 2], 5)
    with OpenVinoEngine(tmp_path / "model.xml", spec) as engine:
        found = engine(dict(zip("qkv", feeds, strict=True)))["out_sample"]
    np.testing.assert_allclose(found, exact(*feeds, 1), atol=1e-5)
