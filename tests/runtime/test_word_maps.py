"""Where words are, read from made-up evidence and attention."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segrefine.runtime.word_maps import Seen, measure_presence, read_word_maps, spread, standardise, to_grid
from segrefine.settings import ZeroShotSettings

SETTINGS = ZeroShotSettings()


def seen(evidence, words, places=None):
    """Evidence (P + K, h, w), attention (P, rows, columns), and places that attend to themselves alone."""
    evidence, words = (np.asarray(each, np.float32) for each in (evidence, words))
    count = words[0].size
    error = np.ones(evidence.shape[1:], np.float32)
    places = np.eye(count, dtype=np.float32) if places is None else places
    return Seen(evidence=evidence, error=error, words=words, places=places)


def square(top, left, side=8, edge=3):
    found = np.zeros((side, side), np.float32)
    found[top : top + edge, left : left + edge] = 1
    return found


def random_words(seed, count, side=8):
    return 0.05 * np.random.default_rng(seed).standard_normal((count, side, side)).astype(np.float32)


def test_a_phrase_is_where_it_explains_more_than_other_words_do():
    here, there = square(0, 0), square(4, 4)
    found = read_word_maps(seen([here, there, *random_words(0, 4)], [here, there]), SETTINGS)
    np.testing.assert_array_equal(found[0].probability > 0.5, here > 0)
    np.testing.assert_array_equal(found[1].probability > 0.5, there > 0)


def test_a_word_is_absent_where_it_looks_at_what_another_word_explains_better():
    salient = square(2, 2)
    evidence = np.stack([0.5 * salient, 2 * salient, *(0.5 * salient for _ in range(3))]) + random_words(1, 5)
    found = read_word_maps(seen(evidence, [salient]), replace(SETTINGS, attention_weight=3.0))
    assert found[0].presence < SETTINGS.presence
    assert not (found[0].probability > 0.5).any() and found[0].probability.max() > 0.3


def test_the_sign_of_the_evidence_needs_no_other_word():
    settings = replace(SETTINGS, evidence_logit=10.0, attention_weight=0.0, threshold=0.0, sharpness=1.0)
    here, there = np.where(square(0, 0) > 0, 0.3, -0.1), np.where(square(0, 0) > 0, 0.2, -0.1)
    found = read_word_maps(seen([here, there, -np.ones((8, 8))], [square(4, 4)] * 3), settings)
    for each, odds in zip(found, (3, 2), strict=False):
        np.testing.assert_array_equal(each.probability > 0.5, square(0, 0) > 0)
        assert each.presence == pytest.approx(odds) and each.score.max() == pytest.approx(odds)
    assert found[2].presence == -np.inf and not (found[2].probability > 0.5).any()
    absent = read_word_maps(seen([there], [square(0, 0)]), replace(settings, presence=2.5))[0]
    assert absent.score.max() > 0 and not (absent.probability > 0.5).any()


@pytest.mark.parametrize("logit", [0.0, 10.0])
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 5))
def test_probabilities_are_in_range_whatever_comes(logit, seed, phrases, rivals):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-12, 12)
    evidence = scale * rng.standard_normal((phrases + rivals, 6, 5))
    places = rng.random((30, 30)).astype(np.float32)
    given_maps = seen(evidence, rng.random((phrases, 6, 5)), places / places.sum(1, keepdims=True))
    for each in read_word_maps(given_maps, replace(SETTINGS, evidence_logit=logit)):
        assert ((each.probability >= 0) & (each.probability <= 1)).all()
        assert np.isfinite(each.score).all()


def test_flat_maps_say_nothing():
    found = read_word_maps(seen(np.zeros((4, 8, 8)), np.full((2, 8, 8), 0.01)), SETTINGS)
    assert all(not (each.probability > 0.5).any() for each in found)


@pytest.mark.parametrize("logit", [0.0, 10.0])
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_scale_of_a_models_errors_does_not_matter(factor, logit):
    settings = replace(SETTINGS, evidence_logit=logit)
    evidence, words = [square(0, 0), *random_words(2, 4)], [square(0, 0)]
    plain = seen(evidence, words)
    scaled = Seen(
        evidence=np.float32(factor) * plain.evidence, error=np.float32(factor) * plain.error,
        words=np.float32(factor) * plain.words, places=plain.places,
    )  # fmt: skip
    once, again = (read_word_maps(each, settings)[0] for each in (plain, scaled))
    np.testing.assert_allclose(again.probability, once.probability, atol=1e-4)


def test_presence_is_the_lead_over_the_best_other_word():
    mask = np.ones((2, 2), np.bool_)
    others = np.stack([np.full((2, 2), value, np.float32) for value in (-1.0, 1.0)])  # one apart from their mean
    assert measure_presence(np.full((2, 2), 3, np.float32), others, mask) == pytest.approx(2)
    assert measure_presence(others[0], others, mask) == pytest.approx(-2)
    assert measure_presence(others[0], others, ~mask) == -np.inf
    assert measure_presence(others[0], others[:1], mask) == np.inf


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 3))
def test_means_over_cells_are_those_of_pooling(height, width, level):
    cell = 2**level
    values = np.random.default_rng(height * width).random((height, width)).astype(np.float32)
    grid = -(-height // cell), -(-width // cell)
    found = to_grid(values, grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            part = values[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
            assert found[row, column] == pytest.approx(part.mean(), rel=1e-5)


def test_spreading_takes_the_mean_of_the_places_that_are_attended_to():
    places = np.array([[0.5, 0.5], [0, 1]], np.float32)
    np.testing.assert_allclose(spread(np.array([[1, 3]], np.float32), places, 1), [[2, 3]])
    np.testing.assert_allclose(spread(np.array([[1, 3]], np.float32), places, 2), [[2.5, 3]])
    assert standardise(np.full((2, 2), 7, np.float32)).tolist() == [[0, 0], [0, 0]]
