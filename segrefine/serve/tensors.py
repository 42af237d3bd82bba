"""Tensors of the KServe v2 protocol: in JSON, or as bytes behind the JSON (the binary tensor extension)."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.serve.problem import Problem
from segrefine.signature import Tensor

LENGTH_HEADER = "inference-header-content-length"
MOST_VALUES = 4_000_000
"""Numbers of a request in JSON, which take about thirty times their bytes in memory."""
_DTYPES: Mapping[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
_HINT = "GET /v2/models/NAME lists names, datatypes and shapes"


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """Request of a client to a model.

    Attributes:
        id: what the answer repeats; None for nothing.
        parameters: further values by name.
        tensors: the inputs by name; texts are arrays of str.
        outputs: wanted outputs by name, each with whether it is sent as bytes; empty for all.
        binary: whether outputs are sent as bytes where nothing is said of them.
    """

    id: str | None
    parameters: Mapping[str, Any]
    tensors: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, bool]
    binary: bool


def datatype_of(tensor: Tensor) -> str:
    """KServe's name of a tensor's type."""
    return "BYTES" if tensor.data_type == "STRING" else tensor.data_type


def read_request(body: bytes, length: str | None) -> InferRequest:
    """The request in a body.

    Args:
        body: JSON, and behind it the tensors that are sent as bytes.
        length: bytes of the JSON, as the header says; None where there is nothing else.

    Raises:
        Problem: it is malformed.
    """
    size = _read_length(length, len(body))
    values = _read_json(body[:size])
    given = values.get("inputs")
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise _malformed("a list of inputs", repr(given)[:80])
    place, tensors = size, dict[str, NDArray[Any]]()
    for each in given:
        tensor, place = _read_input(each, body, place)
        tensors[str(each.get("name"))] = tensor
    if place != len(body):
        raise _malformed("tensors that fill the body", f"{len(body) - place} bytes more")
    parameters = _parameters_of(values)
    wanted = values.get("outputs") or []
    if not isinstance(wanted, list) or not all(isinstance(each, dict) for each in wanted):
        raise _malformed("a list of outputs", repr(wanted)[:80])
    binary = bool(parameters.pop("binary_data_output", False))
    outputs = {str(each.get("name")): bool(_parameters_of(each).get("binary_data", binary)) for each in wanted}
    named = values.get("id")
    return InferRequest(
        id=None if named is None else str(named), parameters=parameters, tensors=tensors, outputs=outputs, binary=binary
    )


def write_answer(
    values: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], asked: InferRequest
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer, and its headers.

    Args:
        values: what the JSON holds besides the outputs.
        tensors: the outputs by name: bool, numbers, or floats.
        asked: the request, which says which outputs are wanted, and how.

    Raises:
        Problem: there is no output of a name.
    """
    if stray := sorted(asked.outputs.keys() - tensors.keys()):
        raise Problem(422, "bad_field", f"outputs among {', '.join(tensors)}", repr(stray[0]), _HINT)
    wanted = asked.outputs or dict.fromkeys(tensors, asked.binary)
    described, blobs = [], []
    for name, as_bytes in wanted.items():
        array = np.ascontiguousarray(tensors[name])
        entry: dict[str, Any] = {"name": name, "datatype": _name_of(array), "shape": list(array.shape)}
        if as_bytes:
            blobs.append(array.tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        described.append(entry)
    head = json.dumps({**({} if asked.id is None else {"id": asked.id}), **values, "outputs": described}).encode()
    if not blobs:
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return b"".join([head, *blobs]), headers


def _read_length(length: str | None, whole: int) -> int:
    if length is None:
        return whole
    if not length.isdecimal() or int(length) > whole:
        raise _malformed(f"a length of the JSON up to {whole} in {LENGTH_HEADER}", length[:40])
    return int(length)


def _read_json(text: bytes) -> dict[str, Any]:
    if text.count(b",") > MOST_VALUES:
        expected = f"at most {MOST_VALUES} values in JSON"
        raise Problem(413, "bad_json", expected, "more", "send tensors as bytes, as clients do by default")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed("JSON in UTF-8", str(error)[:80]) from None
    if not isinstance(values, dict):
        raise _malformed("a JSON object", type(values).__name__)
    return values


def _parameters_of(values: Mapping[str, Any]) -> dict[str, Any]:
    parameters = values.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise _malformed("an object of parameters", type(parameters).__name__)
    return dict(parameters)


def _read_input(each: Mapping[str, Any], body: bytes, place: int) -> tuple[NDArray[Any], int]:
    """One input, and the place in the body behind it."""
    name, datatype, shape = each.get("name"), each.get("datatype"), each.get("shape")
    if not isinstance(name, str) or not isinstance(datatype, str):
        raise _malformed("a name and a datatype for each input", repr((name, datatype))[:80])
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise _malformed(f"a shape of whole numbers for {name}", repr(shape)[:80])
    if datatype not in _DTYPES and datatype != "BYTES":
        raise _malformed(f"a datatype for {name} among {', '.join(_DTYPES)} and BYTES", repr(datatype)[:40])
    parameters = _parameters_of(each)
    if "shared_memory_region" in parameters:
        raise _malformed(f"{name} in the request", "a region of shared memory")
    size, count = parameters.get("binary_data_size"), math.prod(shape)
    if size is None:
        return _from_json(name, datatype, shape, each.get("data")), place
    if type(size) is not int or not 0 <= size <= len(body) - place:
        raise _malformed(f"up to {len(body) - place} bytes for {name}", repr(size)[:40])
    piece = body[place : place + size]
    if datatype == "BYTES":
        texts = list(_split_texts(name, piece))
        if len(texts) != count:
            raise _malformed(f"{count} texts for {name}, as its shape {shape} says", len(texts))
        return np.array(texts, object).reshape(shape), place + size
    dtype = np.dtype(_DTYPES[datatype])
    if size != count * dtype.itemsize:
        raise _malformed(f"{count * dtype.itemsize} bytes for {name}, as its shape {shape} says", size)
    return np.frombuffer(piece, dtype).reshape(shape), place + size


def _from_json(name: str, datatype: str, shape: Sequence[int], data: Any) -> NDArray[Any]:
    if not isinstance(data, list):
        raise _malformed(f"data for {name}, as a list or as bytes", type(data).__name__)
    try:
        flat = np.array(data, object if datatype == "BYTES" else _DTYPES[datatype])
        array = flat.reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise _malformed(f"{name} of {datatype} {list(shape)}", str(error)[:80]) from None
    if datatype == "BYTES" and not all(isinstance(text, str) for text in array.ravel()):
        raise _malformed(f"texts for {name}", "something else")
    return array


def _split_texts(name: str, piece: bytes) -> Iterator[str]:
    """The texts in bytes, each behind its length in four bytes."""
    place = 0
    while place < len(piece):
        start = place + 4
        length = struct.unpack("<I", piece[place:start])[0] if start <= len(piece) else len(piece)
        place = start + length
        if place > len(piece):
            raise _malformed(f"whole texts for {name}", "one cut short")
        try:
            yield piece[start:place].decode()
        except UnicodeDecodeError:
            raise _malformed(f"texts in UTF-8 for {name}", "other bytes") from None


def _name_of(array: NDArray[Any]) -> str:
    return next(name for name, dtype in _DTYPES.items() if array.dtype == dtype)


def _malformed(expected: str, got: object) -> Problem:
    return Problem(400, "bad_tensors", expected, str(got), _HINT)
