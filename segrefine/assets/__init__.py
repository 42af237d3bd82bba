"""What ships with segrefine: trained demo models, their exported bundles, and twelve scenes that they never saw."""

from __future__ import annotations

from pathlib import Path

from segrefine.assets.checkpoints import whole_checkpoint

DEMO_LABELS = (
    "fox", "car", "apple", "tree", "penguin", "butterfly", "turtle", "elephant", "banana", "boat", "cactus", "guitar",
    "mushroom", "crown", "umbrella", "rocket",
)  # fmt: skip
"""The sixteen words that the demo model was trained on: all that it knows."""

DEMO_PHRASE_WORDS = frozenset(DEMO_LABELS) | {
    "foxes", "cars", "apples", "trees", "penguins", "butterflies", "turtles", "elephants", "bananas", "boats", "cacti",
    "guitars", "mushrooms", "crowns", "umbrellas", "rockets", "background", "the", "a", "an", "all", "and", "left",
    "right", "of", "above", "below", "big", "small", "red", "orange", "yellow", "green", "blue", "purple", "pink",
    "brown", "black", "white",
}  # fmt: skip
"""The words that the demo's label diffusion model was trained on."""

_FOLDER = Path(__file__).parent


def demo_checkpoint() -> Path:
    """The demo model as diffusers saves a Stable Diffusion checkpoint."""
    return whole_checkpoint(_FOLDER / "demo-checkpoint")


def demo_bundle() -> Path:
    """The demo model as `segrefine export demo` writes it."""
    return _FOLDER / "demo-bundle"


def demo_gs_checkpoint() -> Path:
    """The demo's label diffusion model, laid out likewise, with `label_denoiser` in the UNet's place."""
    return whole_checkpoint(_FOLDER / "demo-gs-checkpoint")


def demo_gs_bundle() -> Path:
    """The same as `segrefine export demo-gs` writes it."""
    return _FOLDER / "demo-gs-bundle"


DEMO_CHECKPOINTS = {"demo": demo_checkpoint, "demo-gs": demo_gs_checkpoint}
"""What gives each demo checkpoint, by its word on a command line."""

DEMO_BUNDLES = {"demo": demo_bundle(), "demo-gs": demo_gs_bundle()}
"""The demo bundles, by their words on a command line."""


def free_guard_file() -> Path:
    """The guard that judges by mask and image alone; see `segrefine.runtime.guard`."""
    return _FOLDER / "free-guard.json"


def demo_samples() -> Path:
    """The scenes: `images/NAME.png`, coarse `masks/NAME.png`, true `truth/NAME.png`, labels in `labels.json`."""
    return _FOLDER / "samples"


def photo_samples() -> Path:
    """Eight free photographs, laid out like the scenes of `demo_samples`; `ATTRIBUTION.md` names their sources."""
    return _FOLDER / "photos"
