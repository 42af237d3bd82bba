"""Phrases in their captions, for PyTorch's side: the windows that `segrefine.runtime.words.context` builds."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from segrefine.runtime.words.context import CaptionedPhrase, arrange_window


def tokenize(tokenizer: CLIPTokenizer, text: str) -> tuple[list[int], list[int]]:
    """The token ids of a text, padded, and the places of the states that the denoiser gets.

    A phrase that knows its caption comes with the words before it; any other text is cut where it is too long.
    """
    length = int(tokenizer.model_max_length)
    if not isinstance(text, CaptionedPhrase):
        ids = tokenizer(text, padding="max_length", truncation=True).input_ids
        return list(ids), list(range(length))
    first, *before, last = tokenizer(text.caption[: text.start], verbose=False).input_ids
    _, *own, _ = tokenizer(str(text), verbose=False).input_ids
    kept, order = arrange_window(len(before), len(own), length)
    window = [first, *before[len(before) - kept :], *own, last]
    return window + [int(tokenizer.pad_token_id)] * (length - len(window)), order


def reorder(states: Tensor, order: Tensor) -> Tensor:
    """States (B, tokens, hidden) in another order, int64 (B, tokens)."""
    return torch.gather(states, 1, order[:, :, None].expand(-1, -1, states.shape[2]))
