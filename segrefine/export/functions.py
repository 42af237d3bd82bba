"""The custom ops in ONNX: each a node backed by a local function in standard ops, which every runtime can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx.parser
import onnx_ir as ir
import torch
from onnx.defs import OpSchema
from onnxscript import values

from segrefine.export.ops import DOMAIN

# Folded as `ops.masked_attention` says, on the standard Attention op. Builders for GPUs fuse it only if q, k and v are
# padded to the same multiple of 8. One of them refuses a node that names a second output.
_MASKED_ATTENTION = """
<domain: "ai.segrefine", opset_import: ["": 23]>
MaskedAttention <scale> (q, k, v, a, b) => (output) {
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    last = Constant <value_ints: ints = [3]> ()
    eight = Constant <value_ints: ints = [8]> ()
    scale_float = Constant <value_float: float = @scale> ()
    scale_value = CastLike (scale_float, a)
    heads = Shape <start = 1, end = 2> (q)
    width = Shape <start = 3, end = 4> (q)
    rank = Shape <start = 2, end = 3> (a)
    folded = Add (width, rank)
    excess = Neg (folded)
    spare = Mod (excess, eight)
    spread = Concat <axis = 0> (one, heads, one, one)
    factor_pads = Concat <axis = 0> (zero, zero, zero, zero, zero, spare)
    scaled_a = Div (a, scale_value)
    padded_a = Pad (scaled_a, factor_pads)
    padded_b = Pad (b, factor_pads)
    single_a = Unsqueeze (padded_a, one)
    single_b = Unsqueeze (padded_b, one)
    every_a = Expand (single_a, spread)
    every_b = Expand (single_b, spread)
    folded_q = Concat <axis = 3> (q, every_a)
    folded_k = Concat <axis = 3> (k, every_b)
    value_pad = Add (rank, spare)
    value_pads = Concat <axis = 0> (zero, zero, zero, zero, zero, zero, zero, value_pad)
    padded_v = Pad (v, value_pads)
    attended = Attention <scale: float = @scale> (folded_q, folded_k, padded_v)
    output = Slice (attended, zero, width, last)
}
"""

# The nearest row is found by |b|² − 2 a·b, one matrix product; the distance to it is then taken from the difference,
# since near zero |a|² + |b|² − 2 a·b has lost half its digits. Rows of the other set are pushed out of reach.
_PIXEL_HAUSDORFF = """
<domain: "ai.segrefine", opset_import: ["": 23]>
PixelHausdorff (fa, fb, w) => (output) {
    one = Constant <value_ints: ints = [1]> ()
    two = Constant <value_ints: ints = [2]> ()
    last = Constant <value_ints: ints = [-1]> ()
    none = Constant <value_float: float = 0.0> ()
    minus_two = Constant <value_float: float = -2.0> ()
    empty = Constant <value_float: float = 65504.0> ()
    far = Constant <value_float: float = 1e30> ()
    half_float = Constant <value_float: float = 0.5> ()
    half = CastLike (half_float, w)
    a = Cast <to = 1> (fa)
    b = Cast <to = 1> (fb)
    b_columns = Transpose <perm = [0, 2, 1]> (b)
    minus_two_b = Mul (b_columns, minus_two)
    product = MatMul (a, minus_two_b)
    length = ReduceSumSquare <keepdims = 0> (b, last)
    is_foreground = Greater (w, half)
    foreground_offset = Where (is_foreground, length, far)
    background_offset = Where (is_foreground, far, length)
    foreground_row = Unsqueeze (foreground_offset, one)
    background_row = Unsqueeze (background_offset, one)
    foreground_order = Add (product, foreground_row)
    background_order = Add (product, background_row)
    foreground_nearest = ArgMin <axis = 2, keepdims = 1> (foreground_order)
    background_nearest = ArgMin <axis = 2, keepdims = 1> (background_order)
    foreground_match = GatherND <batch_dims = 1> (b, foreground_nearest)
    background_match = GatherND <batch_dims = 1> (b, background_nearest)
    foreground_gap = Sub (a, foreground_match)
    background_gap = Sub (a, background_match)
    foreground_found = ReduceL2 <keepdims = 1> (foreground_gap, last)
    background_found = ReduceL2 <keepdims = 1> (background_gap, last)
    foreground_count = Cast <to = 1> (is_foreground)
    foreground_any = ReduceMax <keepdims = 1> (foreground_count, one)
    foreground_all = ReduceMin <keepdims = 1> (foreground_count, one)
    foreground_any_row = Unsqueeze (foreground_any, two)
    foreground_all_row = Unsqueeze (foreground_all, two)
    has_foreground = Greater (foreground_any_row, none)
    lacks_background = Greater (foreground_all_row, none)
    to_foreground = Where (has_foreground, foreground_found, empty)
    to_background = Where (lacks_background, empty, background_found)
    output = Concat <axis = 2> (to_foreground, to_background)
}
"""

PLUGIN_NAMESPACE = "segrefine"
"""Namespace of the plugins that can take the place of the functions. Builders allow no dot in it."""

_BODIES = {"MaskedAttention": _MASKED_ATTENTION, "PixelHausdorff": _PIXEL_HAUSDORFF}


def _schema(name: str, inputs: str, *attributes: str) -> OpSchema:
    return OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter(each, "T") for each in inputs.split()],
        outputs=[OpSchema.FormalParameter("output", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "")],
        attributes=[OpSchema.Attribute(each, OpSchema.AttrType.FLOAT, required=True) for each in attributes],
    )


_OPSET = values.Opset(DOMAIN, 1)
_ATTENTION_NODE = values.Op(_OPSET, "MaskedAttention", _schema("MaskedAttention", "q k v a b", "scale"))
_HAUSDORFF_NODE = values.Op(_OPSET, "PixelHausdorff", _schema("PixelHausdorff", "fa fb w"))


def _translate_attention(q: Any, k: Any, v: Any, a: Any, b: Any, scale: float) -> Any:
    return _ATTENTION_NODE(q, k, v, a, b, scale=scale)


def _translate_hausdorff(fa: Any, fb: Any, w: Any) -> Any:
    return _HAUSDORFF_NODE(fa, fb, w)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.segrefine.masked_attention.default: _translate_attention,
    torch.ops.segrefine.pixel_hausdorff.default: _translate_hausdorff,
}
"""How the exporter writes the ops: as bare nodes. A function in this table would be inlined away."""


def attach_functions(model: ir.Model) -> tuple[str, ...]:
    """The custom ops that the graph uses, as `domain::name`; each gets its function, and its nodes their plugin's name.

    Args:
        model: changed in place.
    """
    nodes = [node for node in model.graph if node.domain == DOMAIN]
    for node in nodes:
        # A plugin of this name and version replaces the function where the builder knows one.
        node.attributes["plugin_namespace"] = ir.AttrString("plugin_namespace", PLUGIN_NAMESPACE)
        node.attributes["plugin_version"] = ir.AttrString("plugin_version", "1")
    used = sorted({node.op_type for node in nodes})
    for name in used:
        function = ir.serde.deserialize_function(onnx.parser.parse_function(_BODIES[name]))
        function.opset_imports[""] = model.opset_imports[""]
        model.functions[function.identifier()] = function
    if used:
        model.opset_imports[DOMAIN] = 1
    return tuple(f"{DOMAIN}::{name}" for name in used)
