"""Attention as OpenVINO's CPU kernels like it: keys are read as they lie, not copied into columns first."""

from __future__ import annotations

from typing import Any

import numpy as np


def spread_attention(model: Any) -> None:
    """Writes attention without a mask as two matrix products and a softmax; the results stay the same, bit by bit.

    OpenVINO does so itself when it compiles, but with a transposition of the keys as an operator of its own: a copy,
    and one that its fused kernel for product, softmax and product does not take in.

    Args:
        model: an `openvino.Model`; changed in place.
    """
    from openvino import opset13 as ops

    for node in find_plain_attention(model):
        q, k, v, *others = inputs_of(node)
        if len(others) > 1:
            scale = others[1]
        else:
            scale = ops.convert_like(np.float32(q.get_partial_shape()[3].get_length() ** -0.5), q)
        weights = ops.softmax(ops.matmul(ops.multiply(q, scale), k, False, True), -1)
        node.output(0).replace(ops.matmul(weights, v, False, False).output(0))
    model.validate_nodes_and_infer_types()


def find_plain_attention(model: Any) -> list[Any]:
    """The attention nodes of an `openvino.Model` in which every query sees every key."""
    nodes = (node for node in model.get_ordered_ops() if node.get_type_name() == "ScaledDotProductAttention")
    return [each for each in nodes if not each.get_attributes()["causal"] and all(map(_is_zero, inputs_of(each)[3:4]))]


def inputs_of(node: Any) -> list[Any]:
    """Queries, keys and values of an attention node; its mask and its scale, where it has them."""
    return [node.input_value(place) for place in range(node.get_input_size())]


def _is_zero(value: Any) -> bool:
    """Return whether this is the scalar 0, which stands for no mask."""
    node = value.get_node()
    while node.get_type_name() in ("Convert", "ConvertLike"):
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant" and node.data.ndim == 0 and not node.data
