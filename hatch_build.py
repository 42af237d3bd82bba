"""What a wheel has of the checkpoints that ship: all but the weights that their bundles hold as well.

The two have the same numbers, and 20 MB would be stored twice. `segrefine/assets/checkpoints.py` puts them together.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

RECIPE, REST = "weights.json", "weights.rest"
LEFT_OUT = ("demo", "demo-gs")
"""Models that only the repository has: those of a wheel are for photographs, which is what people have."""
SMALLEST = 512
"""Bytes of a tensor that is worth looking for."""

Piece = tuple[str, int, int, int]
"""A file, where it starts there, its bytes, and the rows of the matrix that is to be turned, or 0."""


class CustomBuildHook(BuildHookInterface):
    """Adds a recipe for each checkpoint to a wheel; `pyproject.toml` leaves the weights out."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the recipes, unless the source tree itself is what gets installed."""
        if version == "editable":
            return
        assets = Path(self.root) / "segrefine/assets"
        graphs = {
            path.relative_to(assets).as_posix(): path.read_bytes()
            for path in sorted(assets.glob("*-bundle/*/model.onnx_data"))
            if path.parents[1].name.removesuffix("-bundle") not in LEFT_OUT
        }
        self._scratch = tempfile.TemporaryDirectory()
        left_out = {assets / f"{name}-checkpoint" for name in LEFT_OUT}
        for folder in sorted(set(assets.glob("*-checkpoint")) - left_out):
            recipe, rest = make_recipe(folder, graphs)
            for name, content in ((RECIPE, json.dumps(recipe).encode()), (REST, rest)):
                file = Path(self._scratch.name) / f"{folder.name}-{name}"
                file.write_bytes(content)
                build_data["force_include"][str(file)] = f"segrefine/assets/{folder.name}/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what `initialize` wrote."""
        if version != "editable":
            self._scratch.cleanup()


def make_recipe(folder: Path, graphs: Mapping[str, bytes]) -> tuple[dict[str, Any], bytes]:
    """Where the weights of a checkpoint are, and the bytes that are nowhere else.

    Args:
        folder: the checkpoint.
        graphs: the weights of the bundles, by the names of their files.
    """
    recipe: dict[str, Any] = {}
    rest = bytearray()
    for file in sorted(folder.rglob("*.safetensors")):
        content = file.read_bytes()
        pieces: list[Piece] = []
        for part, columns in _tensors(content):
            piece = _find(part, columns, graphs)
            if piece is None:
                piece = (REST, len(rest), len(part), 0)
                rest += part
            pieces.append(piece)
        recipe[file.relative_to(folder).as_posix()] = {"sha256": hashlib.sha256(content).hexdigest(), "pieces": pieces}
    return recipe, bytes(rest)


def _tensors(content: bytes) -> Iterator[tuple[bytes, int]]:
    """The parts of a safetensors file in their order: its header, then tensors, each with the columns of a matrix."""
    start = 8 + struct.unpack("<Q", content[:8])[0]
    yield content[:start], 0
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    for tensor in sorted(header.values(), key=lambda each: each["data_offsets"]):
        first, end = tensor["data_offsets"]
        turned = len(tensor["shape"]) == 2 and tensor["dtype"] in ("F16", "BF16")
        yield content[start + first : start + end], tensor["shape"][1] if turned else 0


def _find(part: bytes, columns: int, graphs: Mapping[str, bytes]) -> Piece | None:
    """Where a tensor is among the bundles' weights, as it is or turned."""
    if len(part) < SMALLEST:
        return None
    values = array("H", part) if columns else array("H")
    turned = b"".join(values[column::columns].tobytes() for column in range(columns))
    for sought, rows in ((part, 0), (turned, columns)):
        for name, content in graphs.items():
            if sought and (start := content.find(sought)) >= 0:
                return name, start, len(sought), rows
    return None
