"""CLIP's tokenizer by hand against the package `tokenizers`: the same ids, places and marks, for any text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, normalizers

import segrefine
from segrefine.runtime.words.byte_pairs import BytePairs, Token
from segrefine.runtime.words.characters import Kind, compose, kind_of, lower
from tests.examples import examples

DEMO = Path(segrefine.__file__).parent / "assets/demo-bundle/tokenizer/tokenizer.json"
POINTS = [*range(0xD800), *range(0xE000, 0x33480), *range(0xE0000, 0xE0200), 0x10FFFF]
"""All code points of Unicode 18 but those of private use."""
SPECIAL = ["<|startoftext|>", "<|endoftext|>", "<|ENDOFTEXT|>", "<|endoftext", "!", "new  york", "Straße"]
PIECES = [
    "fox", "Fox's", "''s", "!!'re", "we'LL", "1234", "½Ⅷ", "\u0301", "e\u0323\u0301", "e\u0301\u0323", "q\u0307\u0323",
    "\u0344",
    "\u1100\u1161\u11a8", "각", "İ", "ΣΣ", "ﬁ", "👨‍👩‍👧", "\x00", "\x1c", "\x85", "\u00a0", "\u200b", " ", "\n\t",
    "a\u1ac1\u0301", "\U000105d2\u0307", "\U00011935\U00011930", "ꟋꟚ\U00010d50", "\U0001e030", "\u0897",
]  # fmt: skip
"""Words, marks in either order, and what Unicode's versions differ in."""


def demo_with(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DEMO.read_text())
    change(document)
    return document


def add_tokens(document: dict[str, Any]) -> None:
    """Added tokens of both kinds: found in the text as it is, and in the normalized text."""
    document["added_tokens"][0]["normalized"] = True
    for index, content, normalized in (
        (0, "!", False),
        (718, "new  york", True),
        (719, "Straße", True),
        (720, "!!", False),
    ):
        document["added_tokens"].append(
            document["added_tokens"][1] | {"id": index, "content": content, "normalized": normalized}
        )


def lose_letters(document: dict[str, Any]) -> None:
    """A vocabulary that lacks some letters, so that texts have unknown tokens."""
    model = document["model"]
    gone = {"z", "z</w>", "q", "Ł"}
    model["vocab"] = {word: index for word, index in model["vocab"].items() if word not in gone}
    model["merges"] = [m for m in model["merges"] if not gone & {*(m.split() if isinstance(m, str) else m)}]


def keep_fixed_words(document: dict[str, Any]) -> None:
    document["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = False


def join_merges(document: dict[str, Any]) -> None:
    document["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in document["model"]["merges"]]


VARIANTS = [lambda document: None, add_tokens, lose_letters, keep_fixed_words, join_merges]


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda change: change.__name__)
def pair(request: pytest.FixtureRequest) -> tuple[BytePairs, Tokenizer]:
    document = demo_with(request.param)
    assert BytePairs.reads(document)
    return BytePairs(document), Tokenizer.from_str(json.dumps(document))


def their_tokens(tokenizer: Tokenizer, text: str) -> list[Token]:
    encoding = tokenizer.encode(text)
    marks = map(bool, encoding.special_tokens_mask)
    return [Token(i, *span, mark) for i, span, mark in zip(encoding.ids, encoding.offsets, marks, strict=True)]


any_character = st.characters(exclude_categories=["Cs"])
texts = st.lists(
    st.one_of(
        st.sampled_from(SPECIAL), st.sampled_from(PIECES), st.text(any_character, max_size=8), st.text("aZz '!\u0301")
    ),
    max_size=12,
).map("".join)


@settings(max_examples=examples(150), deadline=None)
@given(text=texts)
def test_equal_to_tokenizers_on_any_text(pair: tuple[BytePairs, Tokenizer], text: str) -> None:
    ours, theirs = pair
    assert ours.encode(text) == their_tokens(theirs, text)


@pytest.mark.parametrize(
    "text", ["x" * 3000, "banana" * 500, "!'" * 1000, "1" * 300, "🦊" * 300, "\u0301" * 300, " " * 3000]
)
def test_equal_on_long_words(pair: tuple[BytePairs, Tokenizer], text: str) -> None:
    ours, theirs = pair
    assert ours.encode(text) == their_tokens(theirs, text)


def test_ids_of_tokens(pair: tuple[BytePairs, Tokenizer]) -> None:
    ours, theirs = pair
    for content in ["<|endoftext|>", "!", "fox</w>", "Straße", "no such token"]:
        assert ours.token_id(content) == theirs.token_to_id(content)


@pytest.mark.parametrize(("kind", "pattern"), [(Kind.LETTER, r"\p{L}"), (Kind.NUMBER, r"\p{N}"), (Kind.SPACE, r"\s")])
def test_kinds_of_all_characters(kind: Kind, pattern: str) -> None:
    left = set(normalizers.Replace(Regex(pattern), "").normalize_str("".join(map(chr, POINTS))))
    kind_of.cache_clear()
    assert {chr(code) for code in POINTS if kind_of.__wrapped__(chr(code)) is kind} == {*map(chr, POINTS)} - left


def test_small_letters_of_all_characters() -> None:
    theirs = normalizers.Lowercase()
    text = "\n".join(map(chr, POINTS))
    assert "\n".join(lower(chr(code)) for code in POINTS) == theirs.normalize_str(text)


def test_all_characters_compose_alike() -> None:
    """Each alone, and each between a letter and a mark of another group."""
    theirs = normalizers.NFC()
    for before, after in (("", ""), ("a", "\u0334"), ("a\u0345", "\u0301")):
        lines = [f"{before}{chr(code)}{after}" for code in POINTS]
        ours = "\n".join("".join(character for character, _ in compose(line)) for line in lines)
        assert ours == theirs.normalize_str("\n".join(lines)), before


OTHER_KINDS: list[Callable[[dict[str, Any]], Any]] = [
    lambda document: document.update(normalizer={"type": "NFC"}),
    lambda document: document["normalizer"]["normalizers"].pop(),
    lambda document: document.update(pre_tokenizer=None),
    lambda document: document["pre_tokenizer"]["pretokenizers"][0].update(behavior="Isolated"),
    lambda document: document["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
    lambda document: document.update(post_processor=None),
    lambda document: document["model"].update(type="WordPiece"),
    lambda document: document["model"].update(end_of_word_suffix=None),
    lambda document: document["model"].update(unk_token="[UNK]"),
    lambda document: document["model"].update(unk_token=None),
    lambda document: document["added_tokens"][0].update(lstrip=True),
    lambda document: document["added_tokens"][0].update(id=5),
    lambda document: document["added_tokens"].append(document["added_tokens"][0] | {"content": "new", "id": 720}),
]


@pytest.mark.parametrize("number", range(len(OTHER_KINDS)))
def test_other_kinds_are_not_read(number: int) -> None:
    assert not BytePairs.reads(demo_with(OTHER_KINDS[number]))
