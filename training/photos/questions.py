"""Questions about a training scene: two captions, and what each of them names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.photos.compose import ASKED, NAMED, LabelledScene
from training.photos.words import NAMES, SEVEN, vary_caption


@dataclass(frozen=True)
class Question:
    """Two captions of a scene.

    Attributes:
        right: names an object of the scene, perhaps with all else.
        second: names another object of the scene, or one that is not there.
        named: numbers of the classes that `right` names.
        rivals: numbers of the classes that `second` names; empty where they are not in the scene.
    """

    right: str
    second: str
    named: tuple[int, ...]
    rivals: tuple[int, ...]


def ask(rng: np.random.Generator, scene: LabelledScene) -> Question:
    """Draw two captions of a scene."""
    shares = scene.shares()
    asked = [n for n in range(1, len(SEVEN) + 1) if shares[n] >= ASKED]
    target = int(rng.choice(asked))
    others = [n for n in asked if n != target]
    if others and rng.random() < 0.5:
        rival = int(rng.choice(others))
        return Question(_word(rng, target), _word(rng, rival), (target,), (rival,))
    named = [target]
    if rng.random() < 0.2:
        also = [n for n in range(1, len(NAMES) + 1) if shares[n] >= NAMED and n != target]
        named = [int(n) for n in rng.permutation([target, *also[:2]])]
    if scene.absent and rng.random() < 0.8:
        wrong = int(rng.choice(scene.absent))
    else:
        wrong = int(rng.choice([n for n in range(len(SEVEN) + 1, len(NAMES) + 1) if shares[n] == 0]))
    return Question(vary_caption(rng, [NAMES[n - 1] for n in named]), _word(rng, wrong), tuple(named), ())


def _word(rng: np.random.Generator, number: int) -> str:
    return vary_caption(rng, [NAMES[number - 1]])
