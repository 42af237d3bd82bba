"""CLIP's tokenizer, read from a bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import BundleError, MissingDependencyError, PromptError
from segrefine.runtime.words.byte_pairs import BytePairs, Token
from segrefine.storage import read_json_object

_HINT = "export the bundle again"
_UNKNOWN_LENGTH = 10**6
"""Above this, transformers means that a tokenizer does not say its length."""


class Encoder(Protocol):
    """Encoder of a text into tokens."""

    def token_id(self, content: str) -> int | None:
        """The id of a token, or None."""

    def encode(self, text: str) -> list[Token]:
        """The tokens of a text, with the start and the end token around them."""


class ForeignTokens:
    """A tokenizer of any other kind, by the package `tokenizers`.

    Args:
        document: the text of a `tokenizer.json`.

    Raises:
        MissingDependencyError: the package is not installed.
        Exception: the document is no tokenizer; `tokenizers` has no narrower class.
    """

    def __init__(self, document: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingDependencyError(
                "this model's tokenizer.json is not of CLIP's usual kind, and takes the package tokenizers, "
                "which is not installed",
                hint="pip install tokenizers",
            ) from error
        self._tokenizer = Tokenizer.from_str(document)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def token_id(self, content: str) -> int | None:
        """The id of a token, or None."""
        found: int | None = self._tokenizer.token_to_id(content)
        return found

    def encode(self, text: str) -> list[Token]:
        """The tokens of a text, with those that the tokenizer puts around them."""
        encoding = self._tokenizer.encode(text)
        marks = map(bool, encoding.special_tokens_mask)
        return [Token(i, *span, added) for i, span, added in zip(encoding.ids, encoding.offsets, marks, strict=True)]


class ClipTokenizer:
    """Text → token ids, equal to `transformers.CLIPTokenizer` with `padding="max_length", truncation=True`.

    Attributes:
        length: tokens of every encoded text, with the start token, the end token and the padding.

    Args:
        encoder: adds the start and the end token itself.
        length: see above; at least 2.
        pad_token: what fills a short text up; one of the encoder's tokens.

    Raises:
        BundleError: the encoder has no such token.
    """

    def __init__(self, encoder: Encoder, *, length: int, pad_token: str) -> None:
        self.length = length
        self._encoder = encoder
        pad_id = encoder.token_id(pad_token)
        if pad_id is None:
            raise BundleError(subject="pad_token", expected="a token of the tokenizer", got=repr(pad_token), hint=_HINT)
        self._pad_id: int = pad_id

    @classmethod
    def from_folder(cls, folder: Path, length: int | None = None) -> ClipTokenizer:
        """Read a `tokenizer/` folder: `tokenizer.json`, and `tokenizer_config.json` for length and padding.

        Args:
            folder: holds the two files.
            length: tokens of every encoded text, where the files do not say it.

        Raises:
            BundleError: one of the files is missing or is not what its name says.
            MissingDependencyError: the tokenizer is of a kind that takes the package `tokenizers`.
        """
        try:
            encoder = _read_encoder((folder / "tokenizer.json").read_text(encoding="utf-8-sig"))
        except MissingDependencyError:
            raise
        except Exception as error:  # what `tokenizers` raises on a bad file is a plain Exception
            raise BundleError(f"no tokenizer in {folder}: {error}", hint=_HINT) from error
        config = read_json_object(folder / "tokenizer_config.json", BundleError, hint=_HINT)
        said = config.get("model_max_length")
        if length is not None and (said is None or (isinstance(said, int) and said > _UNKNOWN_LENGTH)):
            said = length
        return cls(encoder, length=_check_length(said), pad_token=_content_of(config.get("pad_token")))

    def __call__(self, text: str) -> NDArray[np.int64]:
        """The ids of `text`, int64 (1, length): start, its tokens as far as they fit, end, padding.

        Raises:
            PromptError: see `split`.
        """
        return self.fit(self.split(text))

    def split(self, text: str) -> list[Token]:
        """All tokens of `text`, with the start and the end token around them, however many they are.

        Raises:
            PromptError: the text holds half a surrogate pair.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(f"{text!r} is not valid Unicode text", hint="write the label in UTF-8") from error
        return self._encoder.encode(text)

    def fit(self, tokens: Sequence[Token]) -> NDArray[np.int64]:
        """The ids of `tokens` (start and end token included), cut or padded to `length`: int64 (1, length)."""
        ids = [token.id for token in tokens]
        if len(ids) > self.length:
            ids[self.length - 1 :] = ids[-1:]
        return np.array([ids + [self._pad_id] * (self.length - len(ids))], np.int64)

    def repad(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids (B, length) from a tokenizer of the same words, filled up as this one does."""
        end = self.split("")[-1].id
        after = np.arange(ids.shape[1]) > (ids == end).argmax(1)[:, None]
        return np.where(after, self._pad_id, ids)


def _read_encoder(content: str) -> Encoder:
    """The encoder that a `tokenizer.json` describes: our own for CLIP's kind, that of `tokenizers` for others."""
    document = json.loads(content)
    return BytePairs(document) if BytePairs.reads(document) else ForeignTokens(content)


def _check_length(length: Any) -> int:
    """The number of tokens of a text, once it can be one.

    Raises:
        BundleError: it is not. transformers writes 10³⁰ where it does not know.
    """
    if not isinstance(length, int) or not 2 <= length <= 4096:
        raise BundleError(
            subject="tokenizer_config.json",
            expected="a model_max_length of 2 to 4096",
            got=repr(length),
            hint="set it to the text encoder's max_position_embeddings and export again",
        )
    return length


def _content_of(token: Any) -> str:
    """The text of a special token, which a config holds bare or with its properties; CLIP's own where there is none."""
    if token is None:
        return "<|endoftext|>"
    return str(token["content"] if isinstance(token, dict) else token)
