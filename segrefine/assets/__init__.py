"""What ships with segrefine: a trained demo model, its exported bundle, and twelve scenes that it never saw."""

from __future__ import annotations

from pathlib import Path

DEMO_LABELS = (
    "fox", "car", "apple", "tree", "penguin", "butterfly", "turtle", "elephant", "banana", "boat", "cactus", "guitar",
    "mushroom", "crown", "umbrella", "rocket",
)  # fmt: skip
"""The sixteen words that the demo model was trained on: all that it knows."""

_FOLDER = Path(__file__).parent


def demo_checkpoint() -> Path:
    """The demo model as diffusers saves a Stable Diffusion checkpoint."""
    return _FOLDER / "demo-checkpoint"


def demo_label_checkpoint() -> Path:
    """The demo model of label diffusion: label denoiser, its codec, and the parts around it."""
    return _FOLDER / "demo-gs-checkpoint"


def demo_bundle() -> Path:
    """The demo model as `segrefine export demo` writes it."""
    return _FOLDER / "demo-bundle"


def demo_samples() -> Path:
    """The scenes: `images/NAME.png`, coarse `masks/NAME.png`, true `truth/NAME.png`, labels in `labels.json`."""
    return _FOLDER / "samples"
