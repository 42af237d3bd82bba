"""Attention over very many tokens in OpenVINO: in parts of the keys, whose scores fit a core's cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from segrefine.engines.openvino.attention import find_plain_attention, inputs_of

MOST_KEYS = 4096
"""Keys of a part. At 16,384 keys four parts take two thirds of the time of one; eight take as long as four."""
_ZEROS, _COLUMNS = 64, 16
_LEAST, _REACH = np.float32(1e-35), "segrefine_reach"


class OutOfReachError(Exception):
    """Scores were too far from 0 for parts to be put together."""


def split_long_attention(model: Any, most: int = MOST_KEYS) -> bool:
    """Has attention over more than `most` keys computed in parts, and put together; tells whether there was any.

    The result is the same up to rounding. OpenVINO writes the scores of some queries with all keys before it takes
    their softmax: with 16,384 keys these are more than a core's own cache holds. Softmax over parts can be put together
    where the sums behind them are known. OpenVINO does not tell them; so each part has zero vectors among its keys,
    whose scores are 0, and the values have a column that is 1 for the others, and one that is 1 for these. In these
    columns attention gives the shares of both: divided by that of the zeros, all parts are in one unit. That holds for
    scores between about -75 and 75; the model gets one more output, from which `check_reach` sees whether they were.
    (Keys by 64 and columns by 16, as one of either takes the kernels off their fast path.)

    Args:
        model: an `openvino.Model` whose shapes are all fixed; changed in place.
        most: keys of a part.
    """
    from openvino import opset13 as ops

    reaches = []
    for node in find_plain_attention(model):
        count = node.input_value(1).shape[2]
        if count > most:
            size = -(-count // -(-count // most) // _ZEROS) * _ZEROS
            found, reach = _in_parts(node, [size] * ((count - 1) // size) + [(count - 1) % size + 1])
            node.output(0).replace(found.output(0))
            reaches.append(reach)
    if reaches:
        shares = ops.concat(reaches, 0)
        shares.output(0).set_names({_REACH})
        model.add_results([ops.result(shares)])
    model.validate_nodes_and_infer_types()
    return bool(reaches)


def check_reach(requests: Iterable[Any]) -> None:
    """Checks what requests have computed with a model that was split.

    Args:
        requests: of `openvino`; they have ended.

    Raises:
        OutOfReachError: parts were put together that cannot be.
    """
    for request in requests:
        ports = [port for port in request.model_outputs if _REACH in port.names]
        if any(request.get_tensor(port).data.min() <= _LEAST for port in ports):
            raise OutOfReachError


def _in_parts(node: Any, lengths: Sequence[int]) -> tuple[Any, Any]:
    """The output of an attention node, computed over parts of these numbers of keys; and the least share of each."""
    from openvino import opset13 as ops

    queries, keys, values, *scale = (ops.convert(each, "f32").output(0) for each in inputs_of(node))
    batch, heads, _, width = values.shape
    columns = [width, 1, 1, *filter(None, [-(width + 2) % _COLUMNS])]
    zero_values = np.zeros((batch, heads, _ZEROS, sum(columns)), np.float32)
    zero_values[..., width + 1] = 1
    marked = _pad(_pad(values, 3, 1, 1), 3, sum(columns[2:]))
    weighed, total, shares = [], [], []
    for part in zip(*(ops.variadic_split(each, 2, list(lengths)).outputs() for each in (keys, marked)), strict=True):
        some_values = ops.concat([part[1], zero_values], 2)
        found = ops.scaled_dot_product_attention(queries, _pad(part[0], 2, _ZEROS), some_values, *scale)
        mean, others, zeros = ops.variadic_split(found, 3, columns).outputs()[:3]
        shares.append(zeros)
        weight = ops.divide(np.float32(1), ops.maximum(zeros, _LEAST))
        weighed.append(ops.multiply(mean, weight))
        total.append(ops.multiply(others, weight))
    shares.append(reduce(ops.add, total))
    reach = ops.concat([ops.reshape(ops.reduce_min(each, [0, 1, 2, 3]), [1], False) for each in shares], 0)
    found = ops.divide(reduce(ops.add, weighed), ops.maximum(shares[-1], _LEAST))
    return ops.convert_like(found, node.input_value(2)), reach


def _pad(values: Any, axis: int, count: int, value: float = 0) -> Any:
    """Values (B, H, N, D) with `count` more along an axis."""
    from openvino import opset13 as ops

    more = [count if each == axis else 0 for each in range(4)]
    return ops.pad(values, [0, 0, 0, 0], more, "constant", np.float32(value))
