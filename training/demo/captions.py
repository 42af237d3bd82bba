"""Captions of the demo scenes from class names, and their token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from numpy.random import Generator
from torch import Tensor
from transformers import CLIPTokenizer

from training.demo.sprites import CLASSES

NAMES = tuple(CLASSES)
_IRREGULAR = {"fox": "foxes", "butterfly": "butterflies", "cactus": "cacti"}
PLURALS = {name: _IRREGULAR.get(name, f"{name}s") for name in NAMES}
"""Class name → its plural."""
_CAPTION_WORDS = """
    a an the photo image picture scene background of and in on to with next left right above below
    red green blue yellow purple orange pink brown black white grey big small all is sits stands
"""
WORDS = (*_CAPTION_WORDS.split(), *PLURALS.values(), *NAMES)
"""Words that are one token each in the demo's pruned vocabulary; all else is spelt in bytes."""


def caption(names: Sequence[str]) -> str:
    """The caption of a scene: ("fox", "car") → "a photo of a fox and a car"; empty for no names."""
    return "a photo of " + " and ".join(f"a {name}" for name in names) if names else ""


def draw_caption(rng: Generator, classes: Sequence[int]) -> str:
    """A training caption: all objects in any order, some of them, or, one time in ten, none (for guidance)."""
    names = [NAMES[i] for i in rng.permutation([c for c in classes if c >= 0])]
    chance = rng.random()
    if chance < 0.1:
        return ""
    if chance < 0.5 and len(names) > 1:
        names = names[: rng.integers(1, len(names))]
    return caption(names)


def draw_pair(rng: Generator, classes: Sequence[int]) -> tuple[int, str, str]:
    """The number of one object of a scene, from 0, its caption, and that of a class that is not in the scene."""
    present = [int(c) for c in classes if c >= 0]
    target = int(rng.integers(len(present)))
    other = rng.choice([c for c in range(len(NAMES)) if c not in present])
    return target, caption([NAMES[present[target]]]), caption([NAMES[other]])


class CaptionEncoder:
    """Captions → token ids (B, 77), each caption tokenised once.

    Args:
        tokenizer: the demo model's tokenizer.
    """

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids = lru_cache(maxsize=None)(self._encode)

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Token ids, int64 (B, 77)."""
        return torch.stack([self._ids(text) for text in captions])

    def _encode(self, text: str) -> Tensor:
        return torch.tensor(self._tokenizer(text, padding="max_length", truncation=True).input_ids)
