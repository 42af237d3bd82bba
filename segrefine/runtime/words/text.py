"""Text inputs of a denoiser: arrays by the names of its inputs, with one row for each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Text = Mapping[str, Floats]
"""``encoder_hidden_states`` float32 (B, tokens, hidden); for Stable Diffusion XL also ``text_embeds`` (B, width), the
pooled text, and ``time_ids`` (B, 6), the image's size."""


def size_condition(size: tuple[int, int], batch: int) -> Floats:
    """Return Stable Diffusion XL's condition for an image's size (height, width) in pixels: float32 (batch, 6).

    The size of the original, where it was cropped, and the size that is wanted (arXiv 2307.01952, section 2.2).
    """
    return np.tile(np.array([[*size, 0, 0, *size]], np.float32), (batch, 1))


def pick_texts(text: Text, rows: slice | NDArray[np.integer[Any]]) -> Text:
    """Some rows of the texts."""
    return {name: values[rows] for name, values in text.items()}


def repeat_texts(text: Text, count: int) -> Text:
    """Every row `count` times, one after another."""
    return {name: np.repeat(values, count, 0) for name, values in text.items()}


def join_texts(texts: Sequence[Text]) -> Text:
    """All rows of all texts."""
    return {name: np.concatenate([text[name] for text in texts]) for name in texts[0]}


def count_texts(text: Text) -> int:
    """Count the rows."""
    return len(text["encoder_hidden_states"])
