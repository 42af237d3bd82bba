"""Regions that refining changed: found as an oracle finds them, and described by hand-computed numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from skimage.measure import label

from segrefine.runtime.imaging.grid import fit_to_grid
from segrefine.runtime.regions import MODEL_FEATURES, REGION_FEATURES, Regions, describe_regions, label_regions


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (33, 57), (200, 120)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_regions_are_those_of_scikit_image(shape, share):
    where = np.random.default_rng(3).random(shape) < share
    ours, theirs = label_regions(where), label(where, connectivity=1)
    pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
    assert len(pairs[0]) == len(set(pairs[0])) == len(set(pairs[1])) and ((ours == 0) == ~where).all()
    assert ours.max() == len(np.unique(theirs[where]))


def test_a_snake_is_one_region():
    where = np.zeros((101, 101), bool)
    where[::2] = True
    where[1::4, -1] = where[3::4, 0] = True
    assert label_regions(where).max() == 1


def test_what_is_known_of_a_region(monkeypatch):
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 200  # the object is bright
    coarse, refined = np.zeros((16, 16), np.float32), np.full((16, 16), 0.1, np.float32)
    coarse[4:12, 6:12] = 1  # two columns too far to the left
    refined[4:12, 8:14] = 0.9  # gives these up, and takes two more on the right
    text = np.zeros((4, 4), np.float32)
    text[:, 2:] = 1
    state = SimpleNamespace(discrepancy=text, probability=np.full((4, 4), 0.5, np.float32))
    result: Any = SimpleNamespace(
        coarse=coarse,
        fit=fit_to_grid(image, side=16, multiple=4),
        probability=refined,
        paper_probability=refined,
        text_evidence=text,
        rounds=[state],
    )
    monkeypatch.setattr("segrefine.runtime.regions.sharpen", lambda *_, **__: refined)  # the cautious edge step agrees
    regions, features = describe_regions(image, result)
    assert regions.added.tolist() == [True, False] and regions.pixels.tolist() == [16, 16]
    come, gone = (dict(zip(REGION_FEATURES, each, strict=True)) for each in features)
    for each in (come, gone):
        assert each["log_area"] == pytest.approx(np.log(16 / 48)) and each["softness"] == pytest.approx(0.5)
        assert each["thickness"] == pytest.approx(16 / 20 / np.sqrt(48))
        assert each["paper"] == pytest.approx(0.4) and each["colour"] > 0 and each["text"] > 0
        assert each["added"] == each["removed"] == pytest.approx(1 / 3)
    assert gone["new_border"] > 5 and gone["old_border"] == 0  # its new border is the edge of the object
    assert come["new_border"] == come["old_border"] == 0
    assert come["separable"] == gone["separable"] > 0 and come["border_gain"] == gone["border_gain"] > 0


def test_without_rounds_the_model_says_nothing(monkeypatch):
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    coarse, refined = np.zeros((2, 16, 16), np.float32)
    coarse[4:12, 4:12], refined[4:12, 6:14] = 1, 1
    result: Any = SimpleNamespace(coarse=coarse, fit=None, probability=refined, rounds=())
    _, features = describe_regions(image, result)
    assert len(features) and not features[:, [REGION_FEATURES.index(name) for name in MODEL_FEATURES]].any()


def test_regions_are_divided_by_what_the_cautious_edge_step_agrees_with():
    before, after, cautious = np.zeros((3, 4, 8), bool)
    before[:, :2], after[:, :6], cautious[:, :4] = True, True, True
    regions = Regions.between(before, after, cautious)
    assert regions.added.all() and regions.pixels.tolist() == [8, 8]
    assert regions.numbers[0].tolist() == [0, 0, 1, 1, 2, 2, 0, 0]


def test_values_of_regions_at_their_pixels():
    before, after = np.eye(3, dtype=bool), np.zeros((3, 3), bool)
    regions = Regions.between(before, after, before)
    assert len(regions.pixels) == 3 and not regions.added.any()  # corners do not join
    np.testing.assert_array_equal(regions.everywhere(np.array([5.0, 6.0, 7.0]), -1.0).diagonal(), [5, 6, 7])
    assert (regions.everywhere(np.array([5.0, 6.0, 7.0]), -1.0)[~before] == -1).all()
    np.testing.assert_array_equal(regions.mean(np.arange(9.0).reshape(3, 3)), [0, 4, 8])
