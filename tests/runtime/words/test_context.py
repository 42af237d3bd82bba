"""Phrases that are read with the words before them, on the tokenizer and the engines of the demo model."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segrefine.assets import demo_gs_bundle
from segrefine.errors import PromptError
from segrefine.runtime.segmenter import Segmenter
from segrefine.runtime.words.context import CaptionedPhrase, read_in_context, reorder_states
from segrefine.runtime.words.tokenizer import ClipTokenizer
from tests.examples import examples

WORDS = ["the", "fox", "red", "car", "left", "of", "tree", "big", "and", "apple"]


@pytest.fixture(scope="module")
def segmenter():
    with Segmenter.from_bundle(demo_gs_bundle(), threads=1) as opened:
        yield opened


def tokenizer_of_demo() -> ClipTokenizer:
    return ClipTokenizer.from_folder(demo_gs_bundle() / "tokenizer")


def test_a_captioned_phrase_is_a_text_that_knows_its_caption():
    phrase = CaptionedPhrase("it", "a fox and it", 10)
    assert phrase == "it" and hash(phrase) == hash("it") and f"{phrase}" == "it"
    assert phrase != CaptionedPhrase("it", "it runs", 0) and phrase == CaptionedPhrase("it", "a fox and it", 10)
    again = pickle.loads(pickle.dumps(phrase))
    assert (again, again.caption, again.start) == ("it", "a fox and it", 10)
    with pytest.raises(PromptError, match="does not have the phrase 'it' at 3"):
        CaptionedPhrase("it", "a fox and it", 3)


@settings(max_examples=examples(60), deadline=None)
@given(
    before=st.lists(st.sampled_from(WORDS), max_size=60), own=st.lists(st.sampled_from(WORDS), min_size=1, max_size=6)
)
def test_windows_hold_the_phrase_and_the_last_words_before_it(before, own):
    """However long the caption is, the phrase is whole, and what is in front of it is what stands there."""
    tokenizer = tokenizer_of_demo()
    text = " ".join(own)
    caption = " ".join([*before, *own, "and more words behind it"])
    phrase = CaptionedPhrase(text, caption, len(" ".join(before)) + bool(before))
    window = read_in_context(tokenizer, phrase)
    alone = [token.id for token in tokenizer.split(text)]
    chosen = window.input_ids[0][window.order]
    assert window.input_ids.shape == (1, tokenizer.length) and len(window.order) == tokenizer.length
    assert chosen[: len(alone)].tolist() == alone
    assert set(chosen[len(alone) :].tolist()) <= {int(tokenizer("")[0, -1])}  # the rest is padding
    kept = window.order[1] - 1
    context = [token.id for token in tokenizer.split(" ".join(before))[1:-1]]
    assert window.input_ids[0][1 : 1 + kept].tolist() == context[len(context) - kept :]
    room = tokenizer.length - len(alone)
    assert kept == min(len(context), max(0, room - 4))
    assert np.flatnonzero(window.token_indicator[0, :, 0]).tolist() == list(range(1, len(alone) - 1))
    assert not window.token_indicator[0, :, 1].any()


def test_a_phrase_that_is_too_long_or_empty_is_refused():
    tokenizer = tokenizer_of_demo()
    long = " ".join(["fox"] * 200)
    with pytest.raises(PromptError, match=f"at most {tokenizer.length - 2} tokens"):
        read_in_context(tokenizer, CaptionedPhrase(long, long, 0))
    with pytest.raises(PromptError, match="a phrase that names something"):
        read_in_context(tokenizer, CaptionedPhrase("", "a fox", 0))


def test_states_come_from_the_places_of_the_window():
    states = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    picked = reorder_states({"encoder_hidden_states": states}, [np.array([0, 2, 3, 3])])
    np.testing.assert_array_equal(picked["encoder_hidden_states"][0, :, 0], [0, 6, 9, 9])
    both = {"encoder_hidden_states": np.concatenate([states, states])}
    alone, reordered = reorder_states(both, [None, np.array([0, 2, 3, 3])])["encoder_hidden_states"][:, :, 0]
    assert alone.tolist() == [0, 3, 6, 9] and reordered.tolist() == [0, 6, 9, 9]
    assert reorder_states(both, [None, None]) is both


def test_the_words_before_a_phrase_change_what_it_means_only_by_setting(segmenter):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (64, 64, 3), np.uint8)
    here = CaptionedPhrase("the fox", "the car left of the fox", 16)
    first = CaptionedPhrase("the fox", "the fox left of the car", 0)

    def find(*phrases: str, context: bool) -> list[np.ndarray]:
        result = segmenter(image, phrases, settings={"context": context})
        return [segment.samples for segment in result.segments]

    alone = find("the fox", context=False)[0]
    np.testing.assert_array_equal(find(here, context=False)[0], alone)
    in_caption, at_first, plain = find(here, first, "the fox", context=True)
    np.testing.assert_allclose(at_first, alone, atol=1e-5)  # nothing stands before it
    np.testing.assert_allclose(plain, alone, atol=1e-5)  # a text without a caption is read alone
    assert np.abs(in_caption - alone).max() > 1e-3
