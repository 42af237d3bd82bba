"""Class activation maps and logits as probabilities, and back: a class has a pixel where its probability is above ½."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.datasets.items import Floats
from segrefine.errors import MaskError, SettingsError

_STEPS = 65_536
_MARGIN = 0.002
"""How far a written probability stays from ½, so that half precision keeps its side."""
_ROUNDING = 1e-3
_HINT = "give a constant such as 0.15, or a power such as power:4 for (1 - highest activation)^4"


@dataclass(frozen=True, kw_only=True)
class BackgroundRule:
    """Background score of class activation maps that have none.

    Attributes:
        value: the score, or the power.
        is_power: whether the score is (1 - the highest activation) to that power.
    """

    value: float
    is_power: bool = False

    @classmethod
    def parse(cls, text: str) -> BackgroundRule:
        """The rule that a text names: `0.15`, or `power:4`.

        Raises:
            SettingsError: it names none.
        """
        found = re.fullmatch(r"(power:)?([0-9]*\.?[0-9]+)", text.strip())
        value = float(found[2]) if found else 0.0
        is_power = bool(found and found[1])
        if not found or not 0 < value < (1000 if is_power else 1):
            raise SettingsError(expected="a background score", got=repr(text), hint=_HINT)
        return cls(value=value, is_power=is_power)

    def score(self, highest: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The background's score where the highest activation is as given."""
        return np.power(1 - highest, self.value) if self.is_power else np.full_like(highest, self.value)

    def to_prior(self, maps: NDArray[np.floating[Any]]) -> Floats:
        """Probability of each class, float32 (K, H, W), of its activations, float (K, H, W) in [0, 1].

        It is the class's share of its own score and the highest other one, that of the background among them. So it is
        above one half where the class has the highest of all scores, as the methods themselves decide: in the
        precision of the maps.
        """
        return _share(np.concatenate([self.score(maps.max(0, keepdims=True)), maps]))[1:]

    def to_maps(self, prior: Floats) -> Floats:
        """Activations, float32 (K, H, W), that `to_prior` and the methods themselves read as these probabilities."""
        grid = np.linspace(0, 1, _STEPS + 1)
        shares = grid / np.maximum(grid + self.score(grid), 1e-12)
        return _floats(np.interp(prior, shares, grid))


def _share(stored: NDArray[np.floating[Any]]) -> Floats:
    """Share of each score in itself and the highest other one; above ½ for the first of the highest alone."""
    scores = stored.astype(np.float32)
    winner = scores.argmax(0)
    rest = scores.copy()
    np.put_along_axis(rest, winner[None], -np.inf, 0)
    highest, second = scores.max(0), rest.max(0)
    is_winner = np.arange(len(scores))[:, None, None] == winner
    rivals = np.where(is_winner, second, highest)
    share = scores / np.maximum(scores + rivals, 1e-12)
    return _floats(np.where(is_winner, np.maximum(share, 0.5 + 1e-4), np.minimum(share, 0.5)))


def logits_to_prior(logits: Floats) -> Floats:
    """Probability of each channel, float32 (C, H, W), of its logits: against the highest other channel."""
    winner = logits.argmax(0)
    rest = logits.copy()
    np.put_along_axis(rest, winner[None], -np.inf, 0)
    is_winner = np.arange(len(logits))[:, None, None] == winner
    distance = logits - np.where(is_winner, rest.max(0), logits.max(0))
    share = 1 / (1 + np.exp(-distance.clip(-60, 60)))
    return _floats(np.where(is_winner, np.maximum(share, 0.5 + 1e-4), np.minimum(share, 0.5)))


def to_logits(prior: Floats) -> Floats:
    """Logits of probabilities, against a background that has 0."""
    kept = prior.clip(1e-4, 1 - 1e-4)
    return _floats(np.log(kept / (1 - kept)))


def decide(prior: Floats, mask: NDArray[np.bool_]) -> Floats:
    """Probabilities that are on the side of ½ that a mask, bool of the same shape, says."""
    return _floats(np.where(mask, np.maximum(prior, 0.5 + _MARGIN), np.minimum(prior, 0.5 - _MARGIN)))


def check_activations(maps: NDArray[Any], name: str) -> NDArray[np.floating[Any]]:
    """Class activation maps, float (K, H, W), in [0, 1].

    Raises:
        MaskError: they have another shape or type, or are not from 0 to 1.
    """
    if maps.ndim != 3 or maps.dtype.kind != "f" or not maps.size:
        raise MaskError(
            subject=name,
            expected="maps of floats (classes, height, width)",
            got=f"{maps.dtype} {maps.shape}",
            hint="one map a class, each divided by its highest value",
        )
    low, high = float(maps.min()), float(maps.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        found = "NaN" if np.isnan(maps).any() else f"{low:g} to {high:g}"
        raise MaskError(subject=name, expected="activations from 0 to 1", got=found, hint="divide by the highest value")
    return maps.clip(0, 1)


def enlarge(maps: NDArray[np.floating[Any]], size: tuple[int, int], name: str) -> NDArray[np.floating[Any]]:
    """Maps of an image, (K, h, w), at its size (H, W): bilinear, with pixels as squares (`align_corners=False`).

    Raises:
        MaskError: they are larger than the image, or of another shape.
    """
    height, width = maps.shape[1:]
    if (height, width) == size:
        return maps
    too_large = height > size[0] or width > size[1]
    if too_large or (abs(height - size[0] * width / size[1]) > 1 and abs(width - size[1] * height / size[0]) > 1):
        raise MaskError(
            subject=name,
            expected=f"maps for an image of {size[1]}×{size[0]} pixels",
            got=f"{width}×{height}",
            hint="maps are as large as their image, or a reduction of it",
        )
    return np.stack([_resize(each.astype(np.float32), size, Image.Resampling.BILINEAR) for each in maps])


def reduce(maps: Floats, size: tuple[int, int]) -> Floats:
    """Maps, (K, H, W), at a smaller size (h, w): means."""
    return np.stack([_resize(each, size, Image.Resampling.BOX) for each in maps])


def _floats(values: Any) -> Floats:
    return np.asarray(values, np.float32)


def _resize(values: Floats, size: tuple[int, int], filtering: Image.Resampling) -> Floats:
    return np.asarray(Image.fromarray(np.ascontiguousarray(values)).resize(size[::-1], filtering), np.float32)
