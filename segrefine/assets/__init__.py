"""Assets of segrefine: small trained models, their exported bundles, scenes and photographs to try them on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from segrefine.assets.checkpoints import whole_checkpoint

DEMO_LABELS = (
    "fox", "car", "apple", "tree", "penguin", "butterfly", "turtle", "elephant", "banana", "boat", "cactus", "guitar",
    "mushroom", "crown", "umbrella", "rocket",
)  # fmt: skip
"""The sixteen words that the demo model was trained on: all that it knows."""

_SAYING = frozenset({
    "background", "the", "a", "an", "all", "and", "left", "right", "of", "above", "below", "big", "small",
})  # fmt: skip
DEMO_PHRASE_WORDS = frozenset(DEMO_LABELS) | _SAYING | {
    "foxes", "cars", "apples", "trees", "penguins", "butterflies", "turtles", "elephants", "bananas", "boats", "cacti",
    "guitars", "mushrooms", "crowns", "umbrellas", "rockets", "red", "orange", "yellow", "green", "blue", "purple",
    "pink", "brown", "black", "white",
}  # fmt: skip
"""The words that the demo's label diffusion model was trained on."""

PHOTO_LABELS = ("cat", "dog", "horse", "sheep", "cow", "person")
"""The classes that `photo` and `photo-gs` know in photographs; their model cards have the figures."""

PHOTO_PHRASE_WORDS = frozenset(PHOTO_LABELS) | _SAYING | {"cats", "dogs", "horses", "cows", "people", "persons"}
"""The words of phrases that `photo` and `photo-gs` were trained on for these classes."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Words that a shipped model knows.

    Attributes:
        labels: the things.
        words: all words that may be in a phrase, lower case.
        more: what else it knows, in words.
    """

    labels: tuple[str, ...]
    words: frozenset[str]
    more: str

    @property
    def known(self) -> str:
        """All of it in words."""
        return ", ".join(self.labels) + self.more

    def unknown(self, phrases: Iterable[str]) -> list[str]:
        """The words of phrases that the model does not know, lower case, in alphabetical order."""
        return sorted({word for phrase in phrases for word in re.findall(r"\w+", phrase.casefold())} - self.words)


_DRAWN = Vocabulary(labels=DEMO_LABELS, words=DEMO_PHRASE_WORDS, more=", their colours and places")
_PHOTOGRAPHED = Vocabulary(labels=PHOTO_LABELS, words=PHOTO_PHRASE_WORDS, more=", in photographs")
VOCABULARIES = {"photo": _PHOTOGRAPHED, "photo-gs": _PHOTOGRAPHED, "demo": _DRAWN, "demo-gs": _DRAWN}
"""What each model that ships knows, by its word on a command line."""

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


def photo_checkpoint() -> Path:
    """A text-to-image model that was trained on photographs; the model card is in it."""
    return whole_checkpoint(_FOLDER / "photo-checkpoint")


def photo_bundle() -> Path:
    """The same as `segrefine export photo` writes it. `segrefine refine` takes it where no bundle is named."""
    return _FOLDER / "photo-bundle"


def photo_gs_checkpoint() -> Path:
    """A label diffusion model that was trained on photographs; the model card is in the bundle."""
    return whole_checkpoint(_FOLDER / "photo-gs-checkpoint")


def photo_gs_bundle() -> Path:
    """The same as `segrefine export photo-gs` writes it. `segrefine segment` takes it where no bundle is named."""
    return _FOLDER / "photo-gs-bundle"


_SHIPPED = [name for name in VOCABULARIES if (_FOLDER / f"{name}-bundle").is_dir()]
_CHECKPOINTS = {
    "photo": photo_checkpoint, "photo-gs": photo_gs_checkpoint, "demo": demo_checkpoint, "demo-gs": demo_gs_checkpoint
}  # fmt: skip
SHIPPED_CHECKPOINTS = {name: _CHECKPOINTS[name] for name in _SHIPPED}
"""What gives each checkpoint that ships, by its word on a command line. A wheel is without `demo` and `demo-gs`."""

SHIPPED_BUNDLES = {name: _FOLDER / f"{name}-bundle" for name in _SHIPPED}
"""The bundles that ship, by their words on a command line. A wheel is without `demo` and `demo-gs`."""


def shipped_name(folder: Path) -> str | None:
    """The word of a bundle that ships with segrefine; None for any other folder."""
    words = {path.absolute(): word for word, path in SHIPPED_BUNDLES.items()}
    return words.get(folder.absolute())


def free_guard_file() -> Path:
    """The guard that judges by mask and image alone; see `segrefine.runtime.guard`."""
    return _FOLDER / "free-guard.json"


def demo_samples() -> Path:
    """The scenes: `images/NAME.png`, coarse `masks/NAME.png`, true `truth/NAME.png`, labels in `labels.json`."""
    return _FOLDER / "samples"


def photo_samples() -> Path:
    """Eight free photographs, laid out like the scenes of `demo_samples`; `ATTRIBUTION.md` names their sources."""
    return _FOLDER / "photos"
