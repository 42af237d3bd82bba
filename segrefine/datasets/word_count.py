"""Word counts of texts, by the pre-processing of Panoptic Narrative Grounding."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from segrefine.errors import MissingDependencyError

if TYPE_CHECKING:
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer


@cache
def _tools() -> tuple[BertNormalizer, BertPreTokenizer]:
    """Return the tools that count, from the package `tokenizers`.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        from tokenizers.normalizers import BertNormalizer
        from tokenizers.pre_tokenizers import BertPreTokenizer
    except ImportError as error:
        message = "counting the words of a narrative takes the package tokenizers, which is not installed"
        raise MissingDependencyError(message, hint="pip install tokenizers") from error
    return BertNormalizer(lowercase=True), BertPreTokenizer()


def count_words(text: str) -> int:
    """Count words and marks as BERT's basic tokenizer does."""
    normalise, split = _tools()
    return len(split.pre_tokenize_str(normalise.normalize_str(text)))


def count_utterance(text: str) -> int:
    """The same of an utterance, whose first "n't" counts as two words."""
    text = text.strip()
    place = text.lower().find("n't")
    if place < 0:
        return count_words(text)
    return count_words(text[:place]) + 2 + count_words(text[place + 3 :])
