from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from segrefine.assets import demo_samples


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three scenes as `segrefine samples` writes them, 64 pixels wide to be quick."""
    folder = tmp_path / "scenes"
    labels = json.loads((demo_samples() / "labels.json").read_text())
    names = sorted(labels)[:3]
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for name in names:
            Image.open(demo_samples() / kind / f"{name}.png").resize((64, 64), 0).save(folder / kind / f"{name}.png")
    (folder / "labels.json").write_text(json.dumps({name: labels[name] for name in names}))
    return folder
