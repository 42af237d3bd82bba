"""The prompt that names a label, and which of its tokens do so; in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segrefine.reference.checkpoint import Checkpoint
from segrefine.reference.text import Text
from segrefine.runtime.words.context import CaptionedPhrase


def encode_prompt(model: Checkpoint, template: str, label: str, size: Sequence[int]) -> tuple[Text, Tensor]:
    """A prompt, encoded, and its token indicator (1, tokens, 2): label, other words.

    Args:
        model: gives tokenizer and text encoder.
        template: the prompt; `{label}` stands for the label.
        label: what it names.
        size: height and width of the image.
    """
    before = template.split("{label}")[0]
    text = template.format(label=label)
    start, stop, end = (len(model.tokenizer(part).input_ids) - 1 for part in (before, before + label, text))
    indicator = torch.zeros(1, model.tokenizer.model_max_length, 2)
    indicator[0, 1:end, 1] = 1
    indicator[0, start:stop] = torch.tensor([1.0, 0.0])
    return model.encode_text([text], size), indicator


def encode_in_context(model: Checkpoint, phrase: CaptionedPhrase, size: Sequence[int]) -> tuple[Text, Tensor]:
    """A phrase with the words before it in its caption, encoded, and its token indicator (1, tokens, 2).

    The UNet gets the states of the phrase's own tokens, behind the start token.
    """
    indicator = torch.zeros(1, model.tokenizer.model_max_length, 2)
    indicator[0, 1 : len(model.tokenizer(str(phrase)).input_ids) - 1, 0] = 1
    return model.encode_text([phrase], size), indicator
