from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.datasets.trial import SIZE, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in ("a.png", "sub/a.png", "sub/b.jpg"):
        save(root / "images" / name, np.full((*SIZE, 3), 90, np.uint8))
    (root / "masks").mkdir()
    return root
