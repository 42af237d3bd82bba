"""Phrases of captions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segrefine.errors import PromptError
from segrefine.runtime.words.narrative import label_of, split_caption


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("a fox sits left of a red car", ["a fox", "a red car"]),
        (
            "A photo of two penguins, a banana and the tall tree.",
            ["A photo", "two penguins", "a banana", "the tall tree"],
        ),
        ("foxes in wet grass", ["foxes", "wet grass"]),
        ("a man riding a horse", ["a man", "a horse"]),
        ("the running man's dog", ["the running man's dog"]),
        ("all the apples and the fox left of the tree", ["all the apples", "the fox", "the tree"]),
        ("the the cat", ["the the cat"]),
        ("the red building in the morning", ["the red building", "the morning"]),
        ("two white wings", ["two white wings"]),
        ("fox", ["fox"]),
        ("[a fox] sits left of [ a red car ]", ["a fox", "a red car"]),
        ("[ein Fuchs] sitzt neben [einem Auto]", ["ein Fuchs", "einem Auto"]),
        ("it's a fox, isn't it? There’s a car", ["a fox", "a car"]),
        ("'a fox' near the \"old\" foxes' tails", ["a fox", "old", "foxes' tails"]),
        ("a cafe\u0301 table", ["a cafe\u0301 table"]),
        ("the cup on the left side of the table", ["the cup", "the table"]),
        ("a fox [left of the tree] []", ["left of the tree"]),
        ("a can of soda on the stand", ["a can", "soda", "the stand"]),
        ("a very old dog and this is fine", ["a very old dog", "fine"]),
        ("a red flying kite, a dog chasing cats", ["a red flying kite", "a dog", "cats"]),
        ("a man near the U.S. flag.", ["a man", "the U.S. flag"]),
    ],
)
def test_phrases(caption, phrases):
    plain, spans = split_caption(caption)
    assert [span.text for span in spans] == phrases
    assert [plain[span.start : span.end] for span in spans] == phrases
    assert "[" not in plain


@pytest.mark.parametrize(
    ("phrase", "label"),
    [
        ("the red car", "red car"),
        ("A fox", "fox"),
        ("the fox left of the tree", "fox"),
        ("the left fox", "left fox"),
        ("the man in a blue shirt", "man"),
        ("the fox and the car", "fox and the car"),
        ("all of the apples", "apples"),
        ("one of the red cars", "red cars"),
        ("all of", "of"),
        ("all", "all"),
        ("the left", "left"),
        ("fox", "fox"),
    ],
)
def test_what_a_phrase_calls_its_object(phrase, label):
    assert label_of(phrase) == label


@pytest.mark.parametrize("caption", ["", "  ", "...", "it is there", "of the", "[]"])
def test_no_phrase(caption):
    with pytest.raises(PromptError, match="no phrase"):
        split_caption(caption)


@pytest.mark.parametrize("caption", ["[a fox", "a fox]", "[[a fox]]", "]a fox["])
def test_bracket_without_partner(caption):
    with pytest.raises(PromptError, match="partner"):
        split_caption(caption)


@given(st.text(alphabet="ab the,.[] ing'é\n", max_size=40))
def test_spans_lie_in_the_caption_and_follow_each_other(caption):
    try:
        plain, spans = split_caption(caption)
    except PromptError:
        return
    assert all(span.text and plain[span.start : span.end] == span.text == span.text.strip() for span in spans)
    assert all(a.end <= b.start for a, b in zip(spans, spans[1:], strict=False))
