"""Noise levels of training: the noisiest for one step, lower ones so that more steps do not lose."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segrefine.train.options import Recipe

NOISIEST_SHARE = 0.1
"""Share of the levels that count as noisiest."""


def draw_levels(rng: Generator, count: int, levels: int, recipe: Recipe, done: float) -> NDArray[np.int64]:
    """Noise levels of a batch, int64 (count,).

    The end-to-end recipe takes the last level for half of the samples, and one of the noisiest tenth for the others:
    there, only image and phrase can tell the mask. Diffusion takes the noisiest tenth for half of the samples, and all
    levels for the others.

    Args:
        rng: source of randomness.
        count: samples.
        levels: how many the schedule has.
        recipe: what is trained.
        done: share of the run that is done.
    """
    noisiest = rng.integers(round(levels * (1 - NOISIEST_SHARE)), levels, count)
    half = rng.random(count) < 0.5
    if is_end_to_end(recipe, done):
        return np.where(half, levels - 1, noisiest)
    return np.where(half, noisiest, rng.integers(0, levels, count))


def draw_lower_levels(rng: Generator, count: int, levels: int) -> NDArray[np.int64]:
    """Levels below the noisiest tenth, int64 (count,); the model gets its own mask there, as when it samples longer."""
    return rng.integers(0, round(levels * (1 - NOISIEST_SHARE)), count)


def is_end_to_end(recipe: Recipe, done: float) -> bool:
    """Return whether the loss is that of the decoded mask; with "both", in the second half of the run."""
    return recipe == "end-to-end" or (recipe == "both" and done >= 0.5)
