"""Phrases in their captions: the words before a phrase say what "it" or "the other one" is.

CLIP's text encoder reads from left to right. So a phrase's states depend on the words before it, and never on those
after it. A window of tokens ends with the phrase: the caption's last words before it come first, as many as fit. The
denoiser then gets the start token, the phrase's own tokens, the end token and padding, as for a phrase alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import PromptError
from segrefine.runtime.words.narrative import Span, split_caption
from segrefine.runtime.words.prompt import Prompt
from segrefine.runtime.words.text import Text
from segrefine.runtime.words.tokenizer import ClipTokenizer

LEAST_PADDING = 4
"""Padding tokens that every window keeps: the denoiser attends to them too."""


class CaptionedPhrase(str):
    """A phrase that knows its caption. As a text, it is the phrase alone.

    Attributes:
        caption: the whole caption.
        start: place of the phrase's first character in the caption.
    """

    caption: str
    start: int

    def __new__(cls, phrase: str, caption: str, start: int) -> CaptionedPhrase:
        """Make the phrase of a caption.

        Raises:
            PromptError: the caption does not have the phrase there.
        """
        if caption[start : start + len(phrase)] != phrase:
            raise PromptError(
                f"the caption does not have the phrase {phrase!r} at {start}", hint="give the place in the caption"
            )
        made = super().__new__(cls, phrase)
        made.caption, made.start = caption, start
        return made

    def __eq__(self, other: object) -> bool:
        """Return whether it is the same phrase at the same place of the same caption, or the same text alone."""
        if isinstance(other, CaptionedPhrase):
            return str.__eq__(self, other) and (self.caption, self.start) == (other.caption, other.start)
        return str.__eq__(self, other) if isinstance(other, str) else NotImplemented

    def __ne__(self, other: object) -> bool:
        """Return whether it is another phrase."""
        return not self == other

    def __hash__(self) -> int:
        """The hash of the text alone, so that it equals that of a plain text."""
        return str.__hash__(self)

    def __getnewargs__(self) -> tuple[str, str, int]:  # type: ignore[override]  # a str has one
        """Return the arguments that make the same phrase in another process."""
        return str(self), self.caption, self.start


def read_caption(caption: str) -> list[CaptionedPhrase]:
    """Split a caption into its phrases, each of which knows the caption.

    Args:
        caption: a sentence; square brackets mark the phrases, see `split_caption`.

    Raises:
        PromptError: the caption has no phrase, or its brackets do not match.
    """
    return link_spans(*split_caption(caption))


def link_spans(caption: str, spans: Sequence[Span]) -> list[CaptionedPhrase]:
    """The phrases of spans, each of which knows the caption."""
    return [CaptionedPhrase(span.text, caption, span.start) for span in spans]


def read_in_context(tokenizer: ClipTokenizer, phrase: CaptionedPhrase) -> Prompt:
    """Build the prompt of a phrase with the words before it; its own tokens are the label.

    Raises:
        PromptError: the phrase has no tokens, or more than fit.
    """
    tokens = tokenizer.split(phrase.caption[: phrase.start + len(phrase)])
    first, *words, last = tokens
    inside = [place for place, token in enumerate(words) if token.end > phrase.start]
    room = tokenizer.length - 2
    if not inside:
        raise PromptError(expected="a phrase that names something", got=repr(str(phrase)), hint='such as "the dog"')
    own = words[inside[0] :]
    if len(own) > room:
        raise PromptError("the phrase is too long", expected=f"at most {room} tokens", got=len(own),
                          hint="use fewer words")  # fmt: skip
    before = words[: inside[0]]
    kept, order = arrange_window(len(before), len(own), tokenizer.length)
    window = [first, *before[len(before) - kept :], *own, last]
    indicator = np.zeros((1, tokenizer.length, 2), np.float32)
    indicator[0, 1 : 1 + len(own), 0] = 1
    return Prompt(input_ids=tokenizer.fit(window), token_indicator=indicator, order=np.array(order, np.int64))


def arrange_window(before: int, own: int, length: int) -> tuple[int, list[int]]:
    """Return the number of tokens before a phrase that fit, and the places of the denoiser's states.

    Args:
        before: tokens before the phrase.
        own: tokens of the phrase; at most `length` - 2.
        length: tokens of a window, with start, end and padding.
    """
    kept = max(0, min(before, length - 2 - own - LEAST_PADDING))
    end = 1 + kept + own
    order = [0, *range(1 + kept, end), end, *range(end + 1, length)]
    return kept, order + [length - 1] * (length - len(order))


def reorder_states(text: Text, orders: Sequence[NDArray[np.int64] | None]) -> Text:
    """The texts with the states that the denoiser gets.

    Args:
        text: what the encoders gave of B windows.
        orders: of each window, see `Prompt`.
    """
    if all(order is None for order in orders):
        return text
    states = text["encoder_hidden_states"]
    every = np.arange(states.shape[1])
    places = np.stack([every if order is None else order for order in orders])
    return {**text, "encoder_hidden_states": np.take_along_axis(states, places[:, :, None], 1)}
