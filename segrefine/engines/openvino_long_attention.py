"""Attention over very many tokens in OpenVINO: in parts of the keys, whose scores fit a core's cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segrefine.engines.openvino_attention import is_zero

MOST_KEYS = 4096
"""Keys of a part. At 16,384 keys four parts take two thirds of the time of one; eight take as long as four."""
_ZEROS, _COLUMNS = 64, 16
_LEAST = np.float32(1e-35)


def split_long_attention(model: Any, most: int = MOST_KEYS) -> None:
    """Has attention over more than `most` keys computed in parts, and put together; the same up to rounding.

    OpenVINO writes the scores of some queries with all keys before it takes their softmax: with 16,384 keys these are
    more than a core's own cache holds. Softmax over parts can be put together where the sums behind them are known.
    OpenVINO does not tell them; so each part has zero vectors among its keys, whose scores are 0, and the values have a
    column that is 1 for the others, and one that is 1 for these. In these columns attention gives the shares of both:
    divided by that of the zeros, all parts are in one unit. That holds for scores up to 80. (Keys by 64 and columns by
    16, as one of either takes the kernels off their fast path.)

    Args:
        model: an `openvino.Model` whose shapes are all fixed; changed in place.
        most: keys of a part.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() == "ScaledDotProductAttention" and _is_plain(node):
            count = node.input_value(1).shape[2]
            if count > most:
                size = -(-count // -(-count // most) // _ZEROS) * _ZEROS
                node.output(0).replace(_in_parts(node, [size] * ((count - 1) // size) + [(count - 1) % size + 1]))
    model.validate_nodes_and_infer_types()


def _is_plain(node: Any) -> bool:
    """Whether there is no mask, and queries, keys and values are (B, H, N, D) each."""
    inputs = [node.input_value(place) for place in range(node.get_input_size())]
    masked = node.get_attributes()["causal"] or not all(map(is_zero, inputs[3:4]))
    return not masked and all(len(each.shape) == 4 for each in inputs[:3])


def _in_parts(node: Any, lengths: Sequence[int]) -> Any:
    """The output of an attention node, computed over parts of these numbers of keys."""
    from openvino import opset13 as ops

    queries, keys, values, *scale = (node.input_value(place) for place in range(node.get_input_size()))
    batch, heads, _, width = values.shape
    columns = [width, 1, 1, *filter(None, [-(width + 2) % _COLUMNS])]
    zero_values = np.zeros((batch, heads, _ZEROS, sum(columns)), np.float32)
    zero_values[..., width + 1] = 1
    marked = _pad(_pad(values, 3, 1, 1), 3, sum(columns[2:]))
    weighed, total = [], []
    for part in zip(*(ops.variadic_split(each, 2, list(lengths)).outputs() for each in (keys, marked)), strict=True):
        some_values = ops.concat([part[1], ops.convert_like(zero_values, values)], 2)
        found = ops.scaled_dot_product_attention(queries, _pad(part[0], 2, _ZEROS), some_values, *scale)
        mean, others, zeros = ops.variadic_split(found, 3, columns).outputs()[:3]
        weight = ops.divide(np.float32(1), ops.maximum(zeros, _LEAST))
        weighed.append(ops.multiply(mean, weight))
        total.append(ops.multiply(others, weight))
    return ops.divide(_sum(weighed), ops.maximum(_sum(total), _LEAST)).output(0)


def _pad(values: Any, axis: int, count: int, value: float = 0) -> Any:
    """Values (B, H, N, D) with `count` more along an axis."""
    from openvino import opset13 as ops

    more = [count if each == axis else 0 for each in range(4)]
    return ops.pad(values, [0, 0, 0, 0], more, "constant", np.float32(value))


def _sum(terms: Sequence[Any]) -> Any:
    from openvino import opset13 as ops

    total = terms[0]
    for term in terms[1:]:
        total = ops.add(total, term)
    return total
