"""What ships with segrefine: the demo model, as a checkpoint and as a bundle, and twelve scenes."""

from __future__ import annotations

import json
from pathlib import Path

_HERE = Path(__file__).parent


def demo_checkpoint() -> Path:
    """The demo model's checkpoint: a Stable Diffusion folder, weights in half precision."""
    return _HERE / "demo-checkpoint"


def demo_bundle() -> Path:
    """The bundle that was exported from `demo_checkpoint`."""
    return _HERE / "demo-bundle"


def demo_samples() -> Path:
    """Twelve scenes that the demo model never saw: `images/`, `masks/` (coarse), `truth/`, each with NAME.png."""
    return _HERE / "samples"


def demo_labels() -> dict[str, str]:
    """What the mask of each of the twelve scenes shows, by the scene's name."""
    labels: dict[str, str] = json.loads((demo_samples() / "labels.json").read_text(encoding="utf-8"))
    return labels
