"""Prompts: which tokens belong to the label, and the labels that are refused."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

import segrefine
from segrefine.errors import PromptError
from segrefine.runtime.words.prompt import build_prompt
from segrefine.runtime.words.tokenizer import ClipTokenizer
from tests.examples import examples

CHECKPOINT = Path(segrefine.__file__).parent / "assets" / "demo-checkpoint" / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ClipTokenizer:
    folder = tmp_path_factory.mktemp("bundle") / "tokenizer"
    CLIPTokenizer.from_pretrained(CHECKPOINT).save_pretrained(folder)
    return ClipTokenizer.from_folder(folder)


def columns(tokenizer: ClipTokenizer, label: str, **options: Any) -> tuple[list[int], list[int]]:
    """Positions of the label's tokens, and of those that count as background."""
    indicator = build_prompt(tokenizer, label, **options).token_indicator
    return np.flatnonzero(indicator[0, :, 0]).tolist(), np.flatnonzero(indicator[0, :, 1]).tolist()


def test_shapes_and_dtypes(tokenizer: ClipTokenizer) -> None:
    prompt = build_prompt(tokenizer, "fox")
    assert (prompt.input_ids.shape, prompt.input_ids.dtype) == ((1, 77), np.int64)
    assert (prompt.token_indicator.shape, prompt.token_indicator.dtype) == ((1, 77, 2), np.float32)
    np.testing.assert_array_equal(prompt.input_ids, tokenizer("a photo of a fox"))


@pytest.mark.parametrize(
    ("label", "template", "foreground", "background"),
    [
        ("fox", "a photo of a {label}", [5], [1, 2, 3, 4]),
        ("  fox\n", "a photo of a {label}", [5], [1, 2, 3, 4]),
        ("red  car", "a photo of a {label}", [5, 6], [1, 2, 3, 4]),
        ("FOX", "{label}", [1], []),
        ("a", "a {label} a", [2], [1, 3]),
        ("photo", "a photo of a {label} in a photo", [5], [1, 2, 3, 4, 6, 7, 8]),
        ("🦊", "a {label} and a car", [2, 3, 4, 5], [1, 6, 7, 8]),
        ("{red}", "a {label} car", [2, 3, 4], [1, 5]),
    ],
)
def test_label_is_marked_where_it_stands(
    tokenizer: ClipTokenizer, label: str, template: str, foreground: list[int], background: list[int]
) -> None:
    assert columns(tokenizer, label, template=template) == (foreground, background)


def test_special_tokens_are_untouched(tokenizer: ClipTokenizer) -> None:
    assert columns(tokenizer, "fox") == ([5], [1, 2, 3, 4])


@settings(max_examples=examples(200), deadline=None)
@given(
    label=st.text(st.characters(exclude_categories=["Cs", "Z", "C", "M"]), min_size=1, max_size=12).filter(
        lambda label: any(not unicodedata.category(character).startswith("P") for character in label)
    ),
)
def test_marked_tokens_are_exactly_the_tokens_of_the_label(tokenizer: ClipTokenizer, label: str) -> None:
    prompt = build_prompt(tokenizer, label, template="a photo of {label} and a car")
    alone = [token.id for token in tokenizer.split(label) if not token.added]
    marked = prompt.token_indicator[0, :, 0] == 1
    assert prompt.input_ids[0, marked].tolist() == alone
    assert (prompt.token_indicator.sum(-1) <= 1).all()


@pytest.mark.parametrize("label", ["", " ", "\t\n", "\u3000", "!!! … ?"])
@pytest.mark.parametrize("template", ["a photo of a {label}", "fo{label}x"])
def test_empty_labels_are_refused(tokenizer: ClipTokenizer, label: str, template: str) -> None:
    with pytest.raises(PromptError, match="expected a label") as caught:
        build_prompt(tokenizer, label, template=template)
    assert caught.value.hint


def test_longest_label_that_fits(tokenizer: ClipTokenizer) -> None:
    prompt = build_prompt(tokenizer, " ".join(["fox"] * 71))
    assert prompt.token_indicator[0, :, 0].sum() == 71
    with pytest.raises(PromptError, match="expected at most 71 tokens, got 72") as caught:
        build_prompt(tokenizer, " ".join(["fox"] * 72))
    assert caught.value.hint == "use fewer words"


def test_template_that_leaves_no_room(tokenizer: ClipTokenizer) -> None:
    with pytest.raises(PromptError, match="expected at most 0 tokens, got 1"):
        build_prompt(tokenizer, "fox", template="a " * 80 + "{label}")


def test_words_after_the_label_may_be_cut(tokenizer: ClipTokenizer) -> None:
    prompt = build_prompt(tokenizer, "fox", template="a {label}" + " car" * 100)
    assert prompt.token_indicator[0, :, 0].tolist() == [0, 0, 1] + [0] * 74
    assert prompt.token_indicator[0, :, 1].tolist() == [0, 1, 0] + [1] * 73 + [0]


@pytest.mark.parametrize("label", ["<|endoftext|>", "fox <|startoftext|>"])
def test_start_and_end_tokens_in_a_label_are_refused(tokenizer: ClipTokenizer, label: str) -> None:
    with pytest.raises(PromptError, match="start or end token"):
        build_prompt(tokenizer, label)


@pytest.mark.parametrize("template", ["a photo", "{label} {label}", "{0}"])
def test_templates_without_one_place_are_refused(tokenizer: ClipTokenizer, template: str) -> None:
    with pytest.raises(PromptError, match="once in the template"):
        build_prompt(tokenizer, "fox", template=template)
