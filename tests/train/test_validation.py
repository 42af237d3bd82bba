from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segrefine.train.validation import Finding, split_off, summarise


def finding(image: int, label: str, iou: float, present: bool = True, **covers: float) -> Finding:
    return Finding(image=image, phrase=f"the {label}", label=label, present=present, iou=iou, covers=covers)


@pytest.mark.parametrize(
    ("right", "wrong", "is_wrong"), [(0.8, 0.4, False), (0.8, 0.41, True), (0.0, 0.0, True), (0.9, 0.0, False)]
)
def test_a_wrong_word_may_cover_half_of_what_the_right_word_covers(right, wrong, is_wrong):
    found = [finding(0, "cat", 0.5, cat=right, dog=0.0), finding(0, "dog", 0.5, cat=wrong, dog=1.0)]
    report = summarise(found)
    assert report.pairs == 2 and report.wrong_word == is_wrong / 2


def test_words_of_different_images_and_absent_words_are_no_pair():
    found = [finding(0, "cat", 0.5, cat=1.0), finding(1, "dog", 0.5, dog=1.0), finding(0, "dog", 0.2, False, cat=0.9)]
    report = summarise(found)
    assert report.wrong_word is None and report.pairs == 0
    assert report.absent == 0.2 and report.images == 2


def test_the_mean_is_over_classes_not_over_phrases():
    found = [finding(number, "cat", 1.0) for number in range(9)] + [finding(9, "dog", 0.0)]
    assert summarise(found).miou == 0.5


@given(st.integers(0, 50), st.floats(0, 0.9), st.integers(1, 60), st.integers(0, 9))
def test_every_row_trains_or_validates(count, share, limit, seed):
    kept, held = split_off(count, share, limit, seed)
    assert sorted(kept + held) == list(range(count)) and len(held) <= limit
    assert not share or count < 2 or held
