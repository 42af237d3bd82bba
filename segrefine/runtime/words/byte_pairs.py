"""CLIP's tokenizer without a library: text → byte pairs, as its `tokenizer.json` says.

Each id and each place is what the package `tokenizers` gives. The steps are those of its documentation: added tokens,
normalization, splitting into words, bytes as characters, merges in the order of their rank.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from segrefine.runtime.words.characters import Kind, compose, kind_of, lower

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_FIXED = re.compile(r"(<\|)(startoftext|endoftext)(\|>)|'(?:s|t|re|ve|m|ll|d)")
"""What is one word wherever a word may start, before the kinds of its characters count."""
_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Lowercase"},
    ],
}
_SPLIT = {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Removed", "invert": True}
_SUFFIX = "</w>"
"""What ends the last piece of a word."""
_MODEL = {
    "type": ("BPE",), "dropout": (None,), "continuing_subword_prefix": ("", None), "end_of_word_suffix": (_SUFFIX,),
    "fuse_unk": (False,), "byte_fallback": (False,), "ignore_merges": (False,),
}  # fmt: skip
"""Options of the model, with the values of each that are read."""
_ADDED = {"single_word": False, "lstrip": False, "rstrip": False}
"""Options of an added token."""


class Token(NamedTuple):
    """One token of a text: its id, the characters [start, end) that it comes from, and whether the text lacks it."""

    id: int
    start: int
    end: int
    added: bool


class _Letter(NamedTuple):
    """A character of a normalized text, and the characters [start, end) of the text that it comes from."""

    text: str
    start: int
    end: int


class BytePairs:
    """A tokenizer of CLIP's kind.

    Args:
        document: the content of `tokenizer.json`; `reads` says whether it is one of this kind.

    Raises:
        KeyError, TypeError, ValueError: the document lacks a part, or a merge is of tokens that it lacks.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        model, post = document["model"], document["post_processor"]
        self._vocabulary: dict[str, int] = dict(model["vocab"])
        self._unknown = self._vocabulary[model["unk_token"]]
        self._merges = _read_merges(model["merges"], self._vocabulary)
        self._start, self._end = int(post["cls"][1]), int(post["sep"][1])
        self._splits_fixed = bool(document["pre_tokenizer"]["pretokenizers"][1].get("use_regex", True))
        added = document.get("added_tokens", [])
        self._added: dict[str, int] = {token["content"]: int(token["id"]) for token in added}
        self._raw = _any_of([token["content"] for token in added if not token["normalized"]])
        normalized = {_text_of(_normalize(token["content"])): token for token in added if token["normalized"]}
        self._later = _any_of(list(normalized))
        self._later_ids = {content: int(token["id"]) for content, token in normalized.items()}

    @staticmethod
    def reads(document: Mapping[str, Any]) -> bool:
        """Return whether a `tokenizer.json` is of CLIP's kind, in all that matters to the ids."""
        steps, model, post = (document.get(part) or {} for part in ("pre_tokenizer", "model", "post_processor"))
        inner = steps.get("pretokenizers") or []
        return (
            document.get("normalizer") == _NORMALIZER
            and steps.get("type") == "Sequence"
            and len(inner) == 2
            and inner[0] == _SPLIT
            and (inner[1].get("type"), inner[1].get("add_prefix_space")) == ("ByteLevel", False)
            and (post.get("type"), post.get("add_prefix_space"), post.get("trim_offsets"))
            == ("RobertaProcessing", False, False)
            and all(
                model.get(name) in (value if isinstance(value, tuple) else (value,)) for name, value in _MODEL.items()
            )
            and model.get("unk_token") in model.get("vocab", {})
            and _are_plain(document.get("added_tokens", []), model.get("vocab", {}))
        )

    def token_id(self, content: str) -> int | None:
        """The id of a token, or None."""
        return self._added.get(content, self._vocabulary.get(content))

    def encode(self, text: str) -> list[Token]:
        """The tokens of a text, with the start and the end token around them."""
        tokens = [Token(self._start, 0, 0, True)]
        for start, end, matched in _parts(text, self._raw):
            if matched:
                tokens.append(Token(self._added[text[start:end]], start, end, False))
            else:
                tokens += self._encode_part(text[start:end], start)
        return [*tokens, Token(self._end, 0, 0, True)]

    def _encode_part(self, text: str, offset: int) -> Iterator[Token]:
        """The tokens of a part of a text that holds no added token as it is."""
        letters = [_Letter(each.text, each.start + offset, each.end + offset) for each in _normalize(text)]
        normalized = _text_of(letters)
        for start, end, matched in _parts(normalized, self._later):
            if matched:
                index = self._later_ids[normalized[start:end]]
                yield Token(index, letters[start].start, letters[end - 1].end, False)
            else:
                for first, last in _words(normalized[start:end], self._splits_fixed):
                    yield from self._spell(letters[start + first : start + last])

    def _spell(self, word: Sequence[_Letter]) -> Iterator[Token]:
        """The tokens of one word: its bytes, merged as far as the ranks go."""
        units = [_Letter(_BYTES[byte], *letter[1:]) for letter in word for byte in letter.text.encode()]
        units[-1] = units[-1]._replace(text=units[-1].text + _SUFFIX)
        ids = [self._vocabulary.get(unit.text, self._unknown) for unit in units]
        for index, first, last in _merge(ids, self._merges):
            yield Token(index, units[first].start, units[last].end, False)


def _are_plain(added: Sequence[Mapping[str, Any]], vocabulary: Mapping[str, int]) -> bool:
    """Return whether added tokens have no options, and the ids that `tokenizers` gives them whatever the file says."""
    following = len(vocabulary)
    for token in added:
        expected = vocabulary.get(token["content"], following)
        if token["id"] != expected or not _ADDED.items() <= token.items():
            return False
        following += expected == following
    return True


def _read_merges(merges: Sequence[Any], vocabulary: Mapping[str, int]) -> dict[tuple[int, int], tuple[int, int]]:
    """Pair of ids → rank and id of what it becomes; a merge is `"a b"` or `["a", "b"]`."""
    found = {}
    for rank, merge in enumerate(merges):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        found[vocabulary[left], vocabulary[right]] = (rank, vocabulary[left + right])
    return found


def _merge(ids: Sequence[int], merges: Mapping[tuple[int, int], tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Merge neighbours, the lowest rank first, then the leftmost. Gives each id with its first and last place."""
    ids, after, before = list(ids), list(range(1, len(ids) + 1)), list(range(-1, len(ids) - 1))
    alive = [True] * len(ids)
    queue: list[tuple[int, int, int]] = []

    def offer(place: int) -> None:
        if place >= 0 and after[place] < len(ids) and (found := merges.get((ids[place], ids[after[place]]))):
            heapq.heappush(queue, (found[0], place, found[1]))

    for place in range(len(ids)):
        offer(place)
    while queue:
        _, place, merged = heapq.heappop(queue)
        right = after[place]
        if not alive[place] or right >= len(ids) or merges.get((ids[place], ids[right]), (0, -1))[1] != merged:
            continue
        ids[place], after[place], alive[right] = merged, after[right], False
        if after[place] < len(ids):
            before[after[place]] = place
        offer(before[place])
        offer(place)
    for place, index in enumerate(ids):
        if alive[place]:
            yield index, place, after[place] - 1


def _any_of(words: Sequence[str]) -> re.Pattern[str] | None:
    """A pattern of any of the words, the longest first; None where there is none."""
    ordered = sorted(filter(None, words), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def _parts(text: str, pattern: re.Pattern[str] | None) -> Iterator[tuple[int, int, bool]]:
    """Start and end of what matches and of what is between, in their order, and whether it matches; nothing empty."""
    end = 0
    for match in pattern.finditer(text) if pattern else ():
        if match.start() > end:
            yield end, match.start(), False
        yield *match.span(), True
        end = match.end()
    if end < len(text):
        yield end, len(text), False


def _normalize(text: str) -> list[_Letter]:
    """Compose characters, make white space one space, and make letters small."""
    letters: list[_Letter] = []
    for character, place in compose(text):
        if kind_of(character) is not Kind.SPACE:
            letters += [_Letter(small, place, place + 1) for small in lower(character)]
        elif not letters or letters[-1].text != " ":
            letters.append(_Letter(" ", place, place + 1))
    return letters


def _text_of(letters: Sequence[_Letter]) -> str:
    return "".join(letter.text for letter in letters)


def _words(text: str, splits_fixed: bool) -> Iterator[tuple[int, int]]:
    """Start and end of each word: letters, one digit, or characters of other kinds."""
    start = 0
    while start < len(text):
        end = start + 1
        kind = kind_of(text[start])
        if fixed := _FIXED.match(text, start):
            end = fixed.end()
            if fixed[2] and splits_fixed:
                yield from map(fixed.span, (1, 2, 3))
            else:
                yield start, end
        elif kind is not Kind.SPACE:
            while kind is not Kind.NUMBER and end < len(text) and kind_of(text[end]) is kind:
                end += 1
            yield start, end
        start = end


def _byte_characters() -> list[str]:
    """A character for each byte: itself where it can be seen, else one from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return [chr(byte if byte in seen else next(rest)) for byte in range(256)]


_BYTES = _byte_characters()
