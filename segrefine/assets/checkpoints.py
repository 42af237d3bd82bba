"""The checkpoints of an installation: a wheel leaves out the weights that the bundles hold as well.

`hatch_build.py` writes the recipe when a wheel is built. A source tree has the checkpoints whole, and no recipe.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
from array import array
from functools import cache
from pathlib import Path
from typing import Any

from segrefine.errors import IntegrityError

RECIPE, REST = "weights.json", "weights.rest"
"""Files of a checkpoint that is not whole: where each piece of its weights is, and the pieces that no bundle has."""


@cache
def whole_checkpoint(folder: Path) -> Path:
    """A folder with all files of a checkpoint that ships.

    Where weights are left out, the folder is a temporary one. It is removed when the process ends.

    Raises:
        IntegrityError: the bundles no longer hold the weights.
    """
    if not (folder / RECIPE).is_file():
        return folder
    scratch = Path(tempfile.mkdtemp(prefix="segrefine-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    target = scratch / folder.name
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(RECIPE, REST))
    recipe: dict[str, Any] = json.loads((folder / RECIPE).read_text("utf-8"))
    for name, made in recipe.items():
        content = b"".join(_read_piece(folder, *piece) for piece in made["pieces"])
        if hashlib.sha256(content).hexdigest() != made["sha256"]:
            raise IntegrityError(
                "its weights are not those that segrefine came with",
                subject=f"{folder.name}/{name}",
                hint="install segrefine again: pip install --force-reinstall --no-deps segrefine",
            )
        (target / name).write_bytes(content)
    return target


def _read_piece(folder: Path, file: str, start: int, size: int, rows: int) -> bytes:
    """Bytes of a file beside the checkpoint; where `rows` is not 0, of a matrix with so many rows that is turned."""
    path = folder / file if file == REST else folder.parent / file
    with path.open("rb") as opened:
        opened.seek(start)
        content = opened.read(size)
    if not rows or len(content) < size:
        return content
    values = array("H", content)  # of two bytes each
    columns = len(values) // rows
    return b"".join(values[column::columns].tobytes() for column in range(columns))
