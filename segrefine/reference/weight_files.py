"""Safetensors files, read by their headers alone: which tensors they hold, and whether files and shards are whole."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrefine.errors import ExportError
from segrefine.storage import read_json_object

PREFIXES = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
"""In a single file, what the names of a part's tensors begin with."""

_LONGEST_HEADER = 100 << 20
_AGAIN = "fetch it again from where it came from"
_WHOLE = "take the whole folder again from where it came from"


@dataclass(frozen=True)
class SingleFile:
    """A model whose weights are in one file.

    Attributes:
        file: the weights, in safetensors.
        config: a diffusers folder of the same architecture: configurations, tokenizers and schedule are read from it.
    """

    file: Path
    config: Path


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file.

    Attributes:
        dtype: in the file's words, such as "F16".
        count: how many numbers it has.
        end: where it ends, in bytes after the header.
    """

    dtype: str
    count: int
    end: int

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Stored:
        """What a header's entry describes; raises what Python does where it is malformed."""
        return cls(str(entry["dtype"]), math.prod(map(int, entry["shape"])), int(entry["data_offsets"][1]))


Model = str | Path | SingleFile
"""A diffusers folder, or a single file."""


def read_header(file: Path) -> dict[str, Stored]:
    """What a safetensors file says of its tensors, by name.

    Raises:
        ExportError: it is no such file, or not as long as its header says.
    """
    try:
        with file.open("rb") as stream:
            there, start = file.stat().st_size, stream.read(8)
            size = int.from_bytes(start, "little")
            content = stream.read(min(size, _LONGEST_HEADER))
    except OSError as error:
        raise ExportError(f"cannot read {file}: {error.strerror}", hint=_AGAIN) from error
    if there <= 8:
        raise _cut_short(file, "more than 8", there)
    if size > _LONGEST_HEADER or not content.startswith(b"{"):
        raise _no_weights(file, start + content)
    if len(content) < size:
        raise _cut_short(file, f"more than {8 + size}", there)
    try:
        header = {name: Stored.of(entry) for name, entry in json.loads(content).items() if name != "__metadata__"}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _no_weights(file, start + content) from error
    whole = 8 + size + max((stored.end for stored in header.values()), default=0)
    if there < whole:
        raise _cut_short(file, str(whole), there)
    if there > whole:
        raise ExportError(f"{file} is damaged: {whole} bytes expected, {there} there", hint=_AGAIN)
    return header


def find_weights(folder: Path, part: str) -> tuple[str | None, tuple[Path, ...]]:
    """The variant of a part's weights, None or "fp16", and its files; the whole ones are preferred.

    Args:
        folder: the model.
        part: its folder in there, such as "unet".

    Raises:
        ExportError: there are none, or shards do not match their index.
    """
    # as transformers or diffusers names them
    stem = folder / part / ("model" if part.startswith("text_encoder") else "diffusion_pytorch_model")
    for variant in (None, "fp16"):
        middle = "" if variant is None else f".{variant}"
        index = stem.with_name(f"{stem.name}.safetensors.index{middle}.json")
        if (single := stem.with_name(f"{stem.name}{middle}.safetensors")).is_file():
            return variant, (single,)
        if index.is_file():
            return variant, _check_shards(index)
    pickled = [file.name for file in stem.parent.glob("*.bin")]
    hint = "weights are read from safetensors only"
    if pickled:
        hint += f"; {pickled[0]} is a pickle: load it with diffusers, if you trust it, and save_pretrained it"
    raise ExportError(f"{stem}.safetensors is missing", hint=hint)


def count_weights(model: Model, part: str) -> Counter[str]:
    """How many numbers the weights of a part are, by the types that they are stored in; reads headers alone.

    Raises:
        ExportError: they are missing, or a file is not whole.
    """
    prefixes: tuple[str, ...] = ("",)
    if isinstance(model, SingleFile):
        files, prefixes = [model.file], PREFIXES[part]
    else:
        files = [*find_weights(Path(model), part)[1]]
    counts = Counter[str]()
    for file in files:
        for name, stored in read_header(file).items():
            if name.startswith(prefixes):
                counts[stored.dtype] += stored.count
    return counts


def _check_shards(index: Path) -> tuple[Path, ...]:
    """The shards that an index lists, once each holds the tensors that it should."""
    content = read_json_object(index, ExportError, hint=_WHOLE)
    try:
        placed: dict[str, str] = content["weight_map"]
        names = sorted(set(placed.values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{index} is no index of shards: {error!r}", hint=_WHOLE) from error
    for name in names:
        file = index.parent / name
        if Path(name).name != name or not file.is_file():
            raise ExportError(f"{file} is missing: {index.name} lists it", hint=_WHOLE)
        expected = {tensor for tensor, place in placed.items() if place == name}
        if lacking := sorted(expected - read_header(file).keys()):
            raise ExportError(f"{file} lacks {lacking[0]}, which {index.name} says it has", hint=_WHOLE)
    return tuple(index.parent / name for name in names)


def _cut_short(file: Path, expected: str, there: int) -> ExportError:
    return ExportError(f"{file} is truncated: {expected} bytes expected, {there} there", hint=_AGAIN)


def _no_weights(file: Path, start: bytes) -> ExportError:
    """The error for a file that is called safetensors and is none, by its first bytes."""
    if start.startswith(b"version https://git-lfs"):
        return ExportError(f"{file} stands for weights that git-lfs keeps elsewhere", hint="fetch them: git lfs pull")
    message = f"{file} is no safetensors file: {'it begins with ' + repr(start[:16]) if start else 'it is empty'}"
    return ExportError(message, hint=_AGAIN)
