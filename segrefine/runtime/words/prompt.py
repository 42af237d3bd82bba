"""The prompt that names what a mask shows, and which of its tokens do so."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import PromptError
from segrefine.runtime.words.byte_pairs import Token
from segrefine.runtime.words.tokenizer import ClipTokenizer

MARKER = "{label}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """A text for the text encoder and for mask injection.

    Attributes:
        input_ids: int64 (1, tokens).
        token_indicator: float32 (1, tokens, 2), 0 or 1. Column 0: the token belongs to the label; column 1: it counts
            as background; a token with neither is left untouched, as are start, end and padding. Its places are those
            of the states that the UNet gets.
        order: int64 (tokens,), the states that the UNet gets, by their places among the encoder's; None for all of
            them as they are.
    """

    input_ids: NDArray[np.int64]
    token_indicator: NDArray[np.float32]
    order: NDArray[np.int64] | None = None

    @property
    def key(self) -> tuple[bytes, ...]:
        """Return what the model reads of it. It is equal for "fox" and "Fox"."""
        order = b"" if self.order is None else self.order.tobytes()
        return self.input_ids.tobytes(), self.token_indicator.tobytes(), order


def build_prompt(tokenizer: ClipTokenizer, label: str, *, template: str = "a photo of a {label}") -> Prompt:
    """Build the prompt for `label`, with the label's tokens marked. Words that do not fit behind it are cut off.

    Args:
        tokenizer: the text encoder's.
        label: one or more words; white space around them does not count.
        template: the words around it, with `{label}` once.

    Raises:
        PromptError: the label is no text, empty, too long, or holds the start or end token; the template has not one
            `{label}`.
    """
    if template.count(MARKER) != 1:
        raise PromptError(
            expected=f"{MARKER} once in the template", got=repr(template), hint=f'such as "a photo of a {MARKER}"'
        )
    if not isinstance(label, str):
        raise PromptError(expected="a label as text", got=repr(label), hint='name the object, such as "dog"')
    label = label.strip()
    start = template.index(MARKER)
    text = template.replace(MARKER, label)
    tokens = tokenizer.split(text)
    inside = [not token.added and token.start < start + len(label) and token.end > start for token in tokens]
    _check_label(label, tokens, inside, tokenizer.length)

    input_ids = tokenizer.fit(tokens)
    indicator = np.zeros((1, tokenizer.length, 2), np.float32)
    for position, token in enumerate(tokens[: tokenizer.length - 1]):
        if not token.added:
            indicator[0, position, 0 if inside[position] else 1] = 1
    return Prompt(input_ids=input_ids, token_indicator=indicator)


def _check_label(label: str, tokens: list[Token], inside: list[bool], length: int) -> None:
    """Raises PromptError unless the label has tokens, and all of them stand before the end token."""
    if not any(inside) or all(unicodedata.category(character)[0] in "PZ" for character in label):
        raise PromptError(
            expected="a label that names something", got=repr(label), hint='name the object, such as "dog"'
        )
    if any(marked and token.id in (tokens[0].id, tokens[-1].id) for token, marked in zip(tokens, inside, strict=True)):
        raise PromptError(
            f"the label {label!r} holds the start or end token", hint="leave out <|startoftext|> and <|endoftext|>"
        )
    room, count = max(0, length - 1 - inside.index(True)), sum(inside)
    if count > room:
        raise PromptError("the label is too long", expected=f"at most {room} tokens", got=count, hint="use fewer words")
