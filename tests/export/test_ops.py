from __future__ import annotations

from typing import Any

import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor

from segrefine.engines.tensorrt.plugins import registration
from segrefine.export.functions import attach_functions
from segrefine.export.ops import DOMAIN, masked_attention, pixel_hausdorff
from segrefine.reference.attention import attend_naive
from segrefine.reference.hausdorff import EMPTY
from segrefine.reference.hausdorff import pixel_hausdorff as reference_hausdorff


def run_node(name: str, inputs: dict[str, Tensor], **attributes: float) -> tuple[Tensor, ir.Model]:
    """What ONNX Runtime makes of a graph of that one node, all axes free; and the graph."""
    types = {torch.float32: ir.DataType.FLOAT, torch.float16: ir.DataType.FLOAT16}
    values = [
        ir.Value(name=key, type=ir.TensorType(types[each.dtype]), shape=ir.Shape([None] * each.ndim))
        for key, each in inputs.items()
    ]
    node = ir.node(name, values, attributes=attributes, domain=DOMAIN)
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT if name == "PixelHausdorff" else values[0].dtype)
    node.outputs[0].name = "output"
    graph = ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 23}, name="one_node")
    model = ir.Model(graph, ir_version=10)
    assert attach_functions(model) == (f"{DOMAIN}::{name}",)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {key: each.numpy() for key, each in inputs.items()})
    return torch.from_numpy(output), model


def attention_inputs(width: int, rank: int = 2, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = {
        "q": (2, 3, 10, width),
        "k": (2, 3, 7, width),
        "v": (2, 3, 7, width),
        "a": (2, 10, rank),
        "b": (2, 7, rank),
    }
    return {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize(("width", "rank"), [(40, 2), (64, 2), (62, 2), (9, 3), (160, 1)])
def test_folded_attention_is_the_naive_one(width: int, rank: int) -> None:
    inputs = attention_inputs(width, rank)
    expected = attend_naive(**inputs, scale=width**-0.5)
    output, _ = run_node("MaskedAttention", inputs, scale=width**-0.5)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    unbiased = attend_naive(**inputs | {"a": 0 * inputs["a"]}, scale=width**-0.5)
    assert (unbiased - expected).abs().max() > 0.1


def test_folded_attention_runs_in_half_precision() -> None:
    inputs = attention_inputs(40, dtype=torch.float16)
    output, _ = run_node("MaskedAttention", inputs, scale=0.2)
    assert output.dtype == torch.float16
    expected = attend_naive(**{name: each.float() for name, each in inputs.items()}, scale=0.2)
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_distances_are_the_reference_s(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    fa, fb, w = torch.randn(3, 10, 6), torch.randn(3, 13, 6), torch.rand(3, 13)
    fa[0, 0] = fb[0, 0]  # at distance 0
    w[1], w[2] = 0.9, 0.5  # one side empty
    inputs = {"fa": fa.to(dtype), "fb": fb.to(dtype), "w": w.to(dtype)}
    expected = reference_hausdorff(*inputs.values())
    output, _ = run_node("PixelHausdorff", inputs)
    torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)
    assert (output[1, :, 1] == EMPTY).all() and (output[2, :, 0] == EMPTY).all() and output[0, 0].min() == 0


def test_nodes_name_the_plugin_that_may_replace_them() -> None:
    _, model = run_node("MaskedAttention", attention_inputs(8), scale=1.0)
    (node,) = model.graph
    assert node.attributes["plugin_namespace"].as_string() == registration.NAMESPACE
    assert node.attributes["plugin_version"].as_string() == "1"
    (attention,) = (each for each in model.functions[DOMAIN, "MaskedAttention", ""] if each.op_type == "Attention")
    assert len(attention.outputs) == 1  # TensorRT-RTX accepts no more


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        (masked_attention, (*attention_inputs(8).values(), 0.5)),
        (pixel_hausdorff, (torch.rand(2, 5, 3).half(), torch.rand(2, 4, 3).half(), torch.rand(2, 4))),
    ],
)
def test_fake_kernels_fit_the_real_ones(op: Any, inputs: tuple[object, ...]) -> None:
    torch.library.opcheck(op, inputs, test_utils=("test_schema", "test_faketensor"))
