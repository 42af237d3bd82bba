"""Scales that a single file stores for its 8-bit weights: found by name, and checked from the header alone.

A layer's stored weight times its scale is the weight. Spellings in use: `scale_weight` and `scaled_fp8` (ComfyUI),
`weight_scale` and `comfy_quant` (ComfyUI's newer files, compressed-tensors), `weight_scale_inv` (blocks, as DeepSeek
gives them out; it multiplies in spite of its name).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from segrefine.errors import ExportError
from segrefine.reference.weight_files import StoredTensor, read_metadata, read_tensor_bytes

FLOAT8 = ("F8_E4M3", "F8_E5M2")
_FORMATS = {"float8_e4m3fn", "float8_e5m2"}
_FLOATS = {"F32", "F16", "BF16"}
_SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")
_IDLE = ("scale_input", "input_scale", "comfy_quant", "scaled_fp8")
"""Scales of activations, which stay floats here, and marks of the format."""
_QUANTIZED = (
    *("absmax", "quant_map", "nested_absmax", "nested_quant_map", "SCB", "weight_format"),  # bitsandbytes
    *("qweight", "qzeros", "scales", "g_idx"),  # GPTQ, AWQ
    *("wscales", "ascales", "wzeros", "smooth_factor", "smooth_factor_orig"),  # SVDQuant
    *("weight_zero_point", "zero_point", "weight_scale_2", "weight_packed", "weight_shape", "weight_codebook"),
    *("weight_s_rel", "weight_s_channel", "weight_qdata", "_data", "_scale", "output_scale", "weight_offset"),
)
_BLOCK = 128
_HINT = "give the model as it was before, in float16 or float32"


def is_scale(name: str) -> bool:
    """Return whether a tensor belongs to a scaled 8-bit format, and is not a weight of the model itself."""
    return name.rpartition(".")[2] in (*_SCALES, *_IDLE)


def is_quantized(name: str) -> bool:
    """Return whether a tensor is a scale, a table or a mark of a quantized format, of any spelling in use."""
    last = name.rpartition(".")[2]
    return is_scale(name) or last in _QUANTIZED or ".quant_state." in name or ":_data" in name


def find_scales(header: Mapping[str, StoredTensor]) -> dict[str, str]:
    """The scale's name for each 8-bit weight that has one.

    Args:
        header: what a file says of its tensors.

    Raises:
        ExportError: a scale's weight or shape is not one whose meaning is plain.
    """
    scales: dict[str, str] = {}
    for name, stored in header.items():
        layer, _, last = name.rpartition(".")
        if last not in _SCALES:
            continue
        weight = f"{layer}.weight" if f"{layer}.weight" in header else layer
        if weight not in header:
            raise ExportError(f"it is a scale, and there is no {layer}.weight", subject=name, hint=_HINT)
        if weight in scales:
            raise ExportError(f"{weight} has two scales, {scales[weight]} and {name}", hint=_HINT)
        if header[weight].dtype not in FLOAT8 or stored.dtype not in _FLOATS:
            kinds = f"{header[weight].dtype} by {stored.dtype}"
            expected = f"a scale of {' or '.join(FLOAT8)} by {' or '.join(sorted(_FLOATS))}"
            raise ExportError(subject=name, expected=expected, got=kinds, hint=_HINT)
        expand_shape(name, stored.shape, header[weight].shape)
        scales[weight] = name
    return scales


def expand_shape(name: str, scale: Sequence[int], weight: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a scale's shape with one axis for each of the weight's, and the block along each axis.

    One number is for the whole weight, (rows) or (rows, 1, ...) for its rows, (a, b) for blocks of a matrix.

    Args:
        name: of the scale, for the error.
        scale: its shape.
        weight: the weight's shape.

    Raises:
        ExportError: the shapes fit in no plain way.
    """
    ones = (1,) * len(weight)
    if set(scale) <= {1}:
        return ones, tuple(weight)
    if scale[0] == weight[0] and set(scale[1:]) <= {1} and len(scale) <= len(weight):
        return (scale[0], *ones[1:]), (1, *weight[1:])
    if len(scale) == len(weight) == 2:
        pairs = list(zip(scale, weight, strict=True))
        if all(ceil(size / _BLOCK) == count for count, size in pairs):
            return tuple(scale), (_BLOCK, _BLOCK)
        if all(size % count == 0 for count, size in pairs):
            return tuple(scale), tuple(size // count for count, size in pairs)
    message = f"{name} has the shape {tuple(scale)}, which is plain for no weight of the shape {tuple(weight)}"
    raise ExportError(message, hint=_HINT)


def check_quantization(file: Path, header: Mapping[str, StoredTensor]) -> None:
    """Check that what a single file says of quantized tensors is understood.

    Args:
        file: the single file.
        header: what it says of the tensors to check.

    Raises:
        ExportError: a tensor belongs to a format that is not read; the message names it.
    """
    for name in header:
        if is_quantized(name) and not is_scale(name):
            raise ExportError(f"{file} holds quantized weights: {name} is no weight of the model itself", hint=_HINT)
        if name.endswith("comfy_quant"):
            _check_format(name, _parse(read_tensor_bytes(file, header[name]), name))
    if said := read_metadata(file).get("_quantization_metadata"):
        layers = _parse(said.encode(), "_quantization_metadata").get("layers")
        for layer, settings in (layers if isinstance(layers, dict) else {}).items():
            _check_format(f"_quantization_metadata of {layer}", settings if isinstance(settings, dict) else {})


def _parse(content: bytes, name: str) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"it holds no JSON: {error}", subject=name, hint=_HINT) from error
    return values if isinstance(values, dict) else {}


def _check_format(place: str, settings: Mapping[str, Any]) -> None:
    """Raise ExportError where a layer's format is more than 8-bit floats by a scale."""
    others = sorted(settings.keys() - {"format", "full_precision_matrix_mult"})  # the second is about activations
    if settings.get("format") not in _FORMATS or others:
        found = f"{others[0]} {settings[others[0]]!r}" if others else repr(settings.get("format"))
        expected = f"quantization as one of {', '.join(sorted(_FORMATS))}"
        raise ExportError(subject=place, expected=expected, got=found, hint=_HINT)
