"""Safetensors files, read by their headers alone: which tensors they hold, and whether shards are all there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrefine.errors import ExportError

_LONGEST_HEADER = 100 << 20
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


def read_header(file: Path) -> dict[str, Any] | None:
    """What a safetensors file says of its tensors, by name; None where it is no such file."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > min(_LONGEST_HEADER, file.stat().st_size):
            return None
        try:
            header: Any = json.loads(stream.read(size))
        except ValueError:
            return None
    if not isinstance(header, dict):
        return None
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def find_weights(folder: Path, stem: str) -> tuple[str | None, tuple[Path, ...]]:
    """The variant of a part's weights, None or "fp16", and its files; the whole ones are preferred.

    Args:
        folder: the part.
        stem: what the files' names begin with.

    Raises:
        ExportError: there are none, or shards do not match their index.
    """
    for variant in (None, "fp16"):
        middle = "" if variant is None else f".{variant}"
        index = folder / f"{stem}.safetensors.index{middle}.json"
        if (single := folder / f"{stem}{middle}.safetensors").is_file():
            return variant, (single,)
        if index.is_file():
            return variant, _check_shards(index)
    pickled = [file.name for file in folder.glob("*.bin")]
    hint = "weights are read from safetensors only"
    if pickled:
        hint += f"; {pickled[0]} is a pickle: load it with diffusers, if you trust it, and save_pretrained it"
    raise ExportError(f"{folder / stem}.safetensors is missing", hint=hint)


def _check_shards(index: Path) -> tuple[Path, ...]:
    """The shards that an index lists, once each holds the tensors that it should."""
    try:
        placed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(placed.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{index} is no index of shards: {error!r}", hint=_WHOLE) from error
    for name in names:
        file = index.parent / name
        if Path(name).name != name or not file.is_file():
            raise ExportError(f"{file} is missing: {index.name} lists it", hint=_WHOLE)
        header = read_header(file)
        if header is None:
            raise ExportError(f"{file} is no safetensors file", hint=_WHOLE)
        if lacking := sorted({tensor for tensor, place in placed.items() if place == name} - header.keys()):
            raise ExportError(f"{file} lacks {lacking[0]}, which {index.name} says it has", hint=_WHOLE)
    return tuple(index.parent / name for name in names)
