"""Masked attention on CPUs: ONNX Runtime's flash attention in place of the standard op, which writes every score.

Its `MultiHeadAttention` takes keys that are wider than the values, so that nothing is padded, and one head at a time,
so that nothing is transposed. It takes the time of plain attention, or less, and no memory for queries × keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from segrefine.engines.onnxruntime.wire import read_fields, write_field
from segrefine.errors import EngineError

Attribute: TypeAlias = int | str | list[int]

_DOMAIN, _NAME = "ai.segrefine", "MaskedAttention"
_MICROSOFT = "com.microsoft"
_NODES: tuple[tuple[str, str, str, Mapping[str, Attribute]], ...] = (
    ("Constant", "", "one", {"value_ints": [1]}),
    ("Constant", "", "rest", {"value_ints": [-1]}),
    ("Constant", "", "scale_value", {"value_float": "@scale"}),
    ("Shape", "q", "heads", {"start": 1, "end": 2}),
    ("Concat", "one heads one one", "spread", {"axis": 0}),
    ("Div", "a scale_value", "scaled_a", {}),
    ("Unsqueeze", "scaled_a one", "single_a", {}),
    ("Unsqueeze", "b one", "single_b", {}),
    ("Expand", "single_a spread", "every_a", {}),
    ("Expand", "single_b spread", "every_b", {}),
    ("Concat", "q every_a", "folded_q", {"axis": 3}),
    ("Concat", "k every_b", "folded_k", {"axis": 3}),
    ("Shape", "folded_q", "size_q", {"start": 2}),
    ("Shape", "folded_k", "size_k", {"start": 2}),
    ("Shape", "v", "size_v", {"start": 2}),
    ("Concat", "rest size_q", "flat_size_q", {"axis": 0}),
    ("Concat", "rest size_k", "flat_size_k", {"axis": 0}),
    ("Concat", "rest size_v", "flat_size_v", {"axis": 0}),
    ("Reshape", "folded_q flat_size_q", "flat_q", {}),
    ("Reshape", "folded_k flat_size_k", "flat_k", {}),
    ("Reshape", "v flat_size_v", "flat_v", {}),
    ("MultiHeadAttention", "flat_q flat_k flat_v", "attended", {"num_heads": 1, "scale": "@scale"}),
    ("Shape", "q", "size", {}),
    ("Reshape", "attended size", "output", {}),
)
"""The function's nodes: operator, inputs, output, attributes. `@scale` is the attribute of the function itself."""

# Numbers of fields in onnx.proto.
_MODEL_OPSET, _MODEL_FUNCTION = 8, 25
_FUNCTION = {"name": 1, "input": 4, "output": 5, "attribute": 6, "node": 7, "opset": 9, "domain": 10}
_NODE = {"input": 1, "output": 2, "op": 4, "attribute": 5, "domain": 7}
_ATTRIBUTE = {"name": 1, "int": 3, "ints": 8, "type": 20, "reference": 21}
_TYPE = {str: 1, int: 2, list: 7}
"""Types of attributes: a reference to `scale` is a float."""


def with_flash_attention(graph: Path) -> bytes:
    """A float32 ONNX graph whose masked attention has ONNX Runtime's own body; external data stays where it is.

    Raises:
        EngineError: the graph cannot be read.
    """
    parts: list[bytes] = []
    replaced = False
    try:
        for field in read_fields(graph.read_bytes()):
            raw = field.raw
            if field.number == _MODEL_FUNCTION and isinstance(field.value, bytes):
                version = _opset_of_masked_attention(field.value)
                if version is not None:
                    raw, replaced = write_field(_MODEL_FUNCTION, _flash_function(version)), True
            parts.append(raw)
    except (OSError, ValueError) as error:
        raise EngineError(f"does not load: {error}", subject=graph, hint="export the bundle again") from error
    if replaced:
        parts.append(write_field(_MODEL_OPSET, _opset(_MICROSOFT, 1)))
    return b"".join(parts)


def _opset_of_masked_attention(function: bytes) -> int | None:
    """The version of the standard operators in a function, if that is masked attention."""
    fields = list(read_fields(function))
    named = {field.number: field.value for field in fields}
    if (named.get(_FUNCTION["domain"]), named.get(_FUNCTION["name"])) != (_DOMAIN.encode(), _NAME.encode()):
        return None
    for field in fields:
        if field.number == _FUNCTION["opset"] and isinstance(field.value, bytes):
            opset = {each.number: each.value for each in read_fields(field.value)}
            if not opset.get(1):
                return int(opset[2])
    raise ValueError(f"{_NAME} does not say its opset")


def _flash_function(version: int) -> bytes:
    """Masked attention by ONNX Runtime's flash attention, as a FunctionProto."""
    parts = [write_field(_FUNCTION["name"], _NAME)]
    parts += [write_field(_FUNCTION["input"], name) for name in "qkvab"]
    parts += [write_field(_FUNCTION["output"], "output"), write_field(_FUNCTION["attribute"], "scale")]
    parts += [write_field(_FUNCTION["node"], _node(*node)) for node in _NODES]
    opsets = (_opset("", version), _opset(_MICROSOFT, 1))
    parts += [write_field(_FUNCTION["opset"], opset) for opset in opsets]
    return b"".join([*parts, write_field(_FUNCTION["domain"], _DOMAIN)])


def _opset(domain: str, version: int) -> bytes:
    return write_field(1, domain) + write_field(2, version)


def _node(operator: str, inputs: str, output: str, attributes: Mapping[str, Attribute]) -> bytes:
    parts = [write_field(_NODE["input"], name) for name in inputs.split()]
    parts += [write_field(_NODE["output"], output), write_field(_NODE["op"], operator)]
    parts += [write_field(_NODE["attribute"], _attribute(*each)) for each in attributes.items()]
    domain = _MICROSOFT if operator == "MultiHeadAttention" else ""
    return b"".join([*parts, write_field(_NODE["domain"], domain)])


def _attribute(name: str, value: Attribute) -> bytes:
    parts = [write_field(_ATTRIBUTE["name"], name), write_field(_ATTRIBUTE["type"], _TYPE[type(value)])]
    if isinstance(value, str):
        parts.append(write_field(_ATTRIBUTE["reference"], value.removeprefix("@")))
    elif isinstance(value, int):
        parts.append(write_field(_ATTRIBUTE["int"], value))
    else:
        parts += [write_field(_ATTRIBUTE["ints"], each) for each in value]
    return b"".join(parts)
