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

    for node in model.get_ordered_ops():
        if node.get_type_name() != "ScaledDotProductAttention" or node.get_attributes()["causal"]:
            continue
        q, k, v, *others = (node.input_value(place) for place in range(node.get_input_size()))
        mask, scale = (*others, None, None)[:2]
        if mask is not None and not is_zero(mask):
            continue
        if scale is None:
            scale = ops.convert_like(np.float32(q.get_partial_shape()[3].get_length() ** -0.5), q)
        weights = ops.softmax(ops.matmul(ops.multiply(q, scale), k, False, True), -1)
        node.output(0).replace(ops.matmul(weights, v, False, False).output(0))
    model.validate_nodes_and_infer_types()


def is_zero(value: Any) -> bool:
    """Whether this is the scalar 0, which stands for no mask."""
    node = value.get_node()
    while node.get_type_name() in ("Convert", "ConvertLike"):
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant" and node.data.ndim == 0 and not node.data
