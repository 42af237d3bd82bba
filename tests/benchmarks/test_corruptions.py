from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.corruptions import CORRUPTIONS, SEMANTIC_KINDS, corrupt
from tests.examples import examples

DISC, PLATE, STAR = 1, 2, 3
TARGET = dict.fromkeys(CORRUPTIONS, STAR) | {"spill": DISC}
MEAN_IOU = {  # on the star (disc for spill); the ranges hold each kind's strength
    "dilate": (0.45, 0.65),
    "erode": (0.3, 0.6),
    "shift": (0.4, 0.7),
    "ellipse": (0.45, 0.75),
    "blob8": (0.65, 0.9),
    "chunks": (0.6, 0.85),
    "spill": (0.35, 0.55),
    "two": (0.25, 0.5),
}


def overlap(coarse, truth):
    return ((coarse > 0.5) & truth).sum() / ((coarse > 0.5) | truth).sum()


def draws(kind, instances, count=40):
    return [corrupt(kind, instances, TARGET[kind], np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_mask_is_soft_and_as_wrong_as_its_kind_says(kind, instances):
    masks = draws(kind, instances)
    assert all(mask.dtype == np.float32 and mask.shape == instances.shape for mask in masks)
    assert all(mask.min() >= 0 and mask.max() <= 1 and (mask > 0.5).any() for mask in masks)
    low, high = MEAN_IOU[kind]
    assert low < np.mean([overlap(mask, instances == TARGET[kind]) for mask in masks]) < high


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_seed_settles_the_mask(kind, instances):
    first, again, other = (corrupt(kind, instances, TARGET[kind], np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other) or kind in ("dilate", "erode", "two")  # these draw few distinct radii


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_strength_follows_the_size_of_the_object(kind, instances):
    large = np.kron(instances, np.ones((4, 4), np.uint8))
    small_iou, large_iou = (
        np.mean([overlap(mask, scene == TARGET[kind]) for mask in draws(kind, scene)]) for scene in (instances, large)
    )
    assert abs(small_iou - large_iou) < 0.1


def test_dilation_covers_and_erosion_stays_inside(instances):
    star = instances == STAR
    assert all((mask[star] == 1).all() for mask in draws("dilate", instances))
    assert all((mask[~star] == 0).all() for mask in draws("erode", instances))


def test_chunks_are_missing_and_one_is_spurious(instances):
    star = instances == STAR
    assert all((mask[star] == 0).any() for mask in draws("chunks", instances))
    assert any((mask[~star] == 1).any() for mask in draws("chunks", instances))


def test_ellipse_draws_shapes_without_the_notches(instances):
    for mask in draws("ellipse", instances):
        contour = max(cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
        assert cv2.contourArea(contour) > 0.8 * cv2.contourArea(cv2.convexHull(contour))  # the star: 0.6


def test_ellipse_draws_both_ellipses_and_polygons(instances):
    ellipses = 0
    for mask in draws("ellipse", instances):
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        rows, columns = np.mgrid[0:64, 0:64] + 0.5
        down, across = (rows - top) / height * 2 - 1, (columns - left) / width * 2 - 1
        ellipses += overlap(mask, down**2 + across**2 <= 1) > 0.91  # polygons: 0.89 at most
    assert 10 < ellipses < 30


def test_blob_is_soft(instances):
    assert all(((mask > 0.1) & (mask < 0.9)).sum() > 50 for mask in draws("blob8", instances))


def test_spill_covers_the_touching_object_and_no_other(instances):
    for mask in draws("spill", instances):
        assert (mask[instances == DISC] == 1).all()
        assert (mask[instances == PLATE] == 1).mean() > 0.45
        assert not mask[instances == STAR].any()


def test_spill_is_sometimes_partial_and_begins_at_the_contact(instances):
    parts = [mask for mask in draws("spill", instances) if (mask[instances == PLATE] == 0).any()]
    assert parts
    columns = np.nonzero(instances == PLATE)[1]
    near = (instances == PLATE) & (np.arange(64) < columns.min() + 3)
    assert all((mask[near] == 1).mean() > (mask[instances == PLATE] == 1).mean() for mask in parts)


def test_two_covers_the_target_and_one_separate_object(instances):
    for mask in draws("two", instances):
        assert (mask[instances == STAR] == 1).all()
        covered = [(mask[instances == other] == 1).all() for other in (DISC, PLATE)]
        assert sum(covered) == 1


def test_semantic_kinds_need_the_other_object(instances):
    rng = np.random.default_rng(0)
    alone = np.where(instances == STAR, instances, 0).astype(np.uint8)
    touching = np.where(instances == STAR, 0, instances).astype(np.uint8)
    assert all(corrupt(kind, alone, STAR, rng) is None for kind in SEMANTIC_KINDS)
    assert corrupt("spill", instances, STAR, rng) is None
    assert corrupt("two", touching, DISC, rng) is None


def test_object_of_one_pixel_cannot_shrink():
    speck = np.zeros((9, 9), np.uint8)
    speck[4, 4] = 1
    assert corrupt("erode", speck, 1, np.random.default_rng(0)) is None


def test_nothing_left_means_none():
    masks = [corrupt("ellipse", np.ones((1, 1), np.uint8), 1, np.random.default_rng(seed)) for seed in range(50)]
    assert any(mask is None for mask in masks)  # a moved polygon may miss the only pixel
    assert all(mask is None or mask[0, 0] == 1 for mask in masks)


@pytest.mark.parametrize(("kind", "target", "says"), [("melt", STAR, "expected a kind"), ("dilate", 9, "no pixel")])
def test_wrong_request_is_named(kind, target, says, instances):
    with pytest.raises(ValueError, match=says):
        corrupt(kind, instances, target, np.random.default_rng(0))


@settings(max_examples=examples(60), deadline=None)
@given(
    instances=st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
        lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 2))
    ),
    kind=st.sampled_from(list(CORRUPTIONS)),
    seed=st.integers(0, 99),
)
def test_any_instance_map_gives_a_mask_or_none(instances, kind, seed):
    if not (instances == 1).any():
        instances.flat[0] = 1
    mask = corrupt(kind, instances, 1, np.random.default_rng(seed))
    assert mask is None or (mask.shape == instances.shape and 0.5 < mask.max() <= 1 and mask.min() >= 0)
