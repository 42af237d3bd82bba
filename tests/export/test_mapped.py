from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from segrefine.export.mapped import release_weight_files


def resident(file: Path) -> int:
    """Kibibytes of a mapped file in memory."""
    found, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            found = line.endswith(file.name)
        elif found and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="maps are read from /proc")
def test_pages_are_given_back_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"weight": torch.arange(1_000_000, dtype=torch.float32)}, file)
    weights = load_file(file)
    total = weights["weight"].double().sum()
    assert resident(file) > 3000
    release_weight_files()
    assert resident(file) < 100
    assert weights["weight"].double().sum() == total
