"""Questions about a training scene: two captions, and where they differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.photos.compose import ASKED, NAMED, LabelledScene
from training.photos.words import NAMES, SEVEN, vary_caption


@dataclass(frozen=True)
class Question:
    """Two captions of a scene, and where they differ.

    Attributes:
        right: names the target, perhaps with all else.
        second: names another object of the scene, or one that is not there, or nothing.
        target: number of the class that is asked for.
        rival: number of the other object that `second` names; 0 for none.
        sound: whether `second` is true of the scene.
    """

    right: str
    second: str
    target: int
    rival: int
    sound: bool


def ask(rng: np.random.Generator, scene: LabelledScene) -> Question:
    """Draw two captions of a scene."""
    shares = scene.shares()
    asked = [n for n in range(1, len(SEVEN) + 1) if shares[n] >= ASKED]
    target = int(rng.choice(asked))
    others = [n for n in asked if n != target]
    alone = vary_caption(rng, [NAMES[target - 1]])
    if others and rng.random() < 0.5:
        rival = int(rng.choice(others))
        return Question(alone, vary_caption(rng, [NAMES[rival - 1]]), target, rival, sound=True)
    named = [n for n in range(1, len(NAMES) + 1) if shares[n] >= NAMED and n != target]
    names = [NAMES[n - 1] for n in rng.permutation([target, *named[:2]])]
    right = vary_caption(rng, names) if rng.random() < 0.3 else alone
    if rng.random() < 0.15:
        return Question(right, "", target, 0, sound=True)
    if scene.absent and rng.random() < 0.85:
        wrong = int(rng.choice(scene.absent))
    else:
        wrong = int(rng.choice([n for n in range(len(SEVEN) + 1, len(NAMES) + 1) if shares[n] == 0]))
    return Question(right, vary_caption(rng, [NAMES[wrong - 1]]), target, 0, sound=False)
