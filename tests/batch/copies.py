"""Data sets of any length, and a model that does not open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from segrefine.assets import demo_bundle


def copies(scenes: Path, count: int) -> Path:
    """The folder with its first scene so many times, and no other."""
    for kind in ("images", "masks"):
        first, *rest = sorted((scenes / kind).iterdir())
        content = first.read_bytes()
        for path in (first, *rest):
            path.unlink()
        for number in range(count):
            (scenes / kind / f"{number:03d}.png").write_bytes(content)
    (scenes / "labels.json").write_text(json.dumps({f"{number:03d}": "banana" for number in range(count)}))
    return scenes


def damaged_bundle(folder: Path) -> Path:
    """A bundle whose manifest is whole, and whose UNet is not there: processes that open it see that."""
    shutil.copytree(demo_bundle(), folder)
    (folder / "unet" / "model.onnx").unlink()
    return folder
