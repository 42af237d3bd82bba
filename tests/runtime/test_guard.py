"""The guard keeps what it was told to trust, puts back the rest, and says what it did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segrefine.assets import demo_bundle, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.errors import SettingsError
from segrefine.runtime.guard import MASK_FEATURES, GuardSettings, Judged, describe_mask, guard_changes, judge_regions
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.refinement import divide_pixels
from segrefine.runtime.regions import REGION_FEATURES, Regions

SCENE = load_samples(demo_samples())["03-cactus-shift"]
COARSE = SCENE.coarse > 0.5


def settings(added: float, removed: float, threshold: float = 0.0) -> GuardSettings:
    """Settings that hold all regions of a kind for right (above 0) or wrong (below)."""
    nothing = (0.0,) * len(REGION_FEATURES)
    return replace(GuardSettings(), added=(*nothing, added), removed=(*nothing, removed), threshold=threshold)


@pytest.fixture(scope="module")
def refined():
    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        return refiner(SCENE.image, SCENE.coarse, SCENE.label, guard=False)


@pytest.fixture(scope="module")
def run(refined):
    def run(settings=None, result=refined):
        return divide_pixels([guard_changes(SCENE.image, result, settings)])[0]

    return run


def test_what_is_trusted_stays(run, refined):
    guarded = run(settings(1, 1))
    np.testing.assert_array_equal(guarded.mask, refined.mask)
    np.testing.assert_array_equal(guarded.probability, refined.probability)
    assert not guarded.kept_coarse and guarded.kept_share == 0 and 0 < guarded.confidence < 1
    assert refined.confidence is None and refined.kept_share == 0


def test_the_coarse_mask_stays_where_trust_is_not_reached(run):
    for doubtful in (settings(1, 1, threshold=1.01), settings(-1, -1)):
        guarded = run(doubtful)
        np.testing.assert_array_equal(guarded.mask, COARSE)
        np.testing.assert_array_equal(guarded.probability, SCENE.coarse)
        assert guarded.kept_coarse and guarded.kept_share == 1
    assert run(settings(1, 1, threshold=1.01)).confidence == run(settings(1, 1)).confidence


def test_changes_are_put_back_region_by_region(run, refined):
    after = refined.mask
    only_added, only_removed = run(settings(1, -1)), run(settings(-1, 1))
    np.testing.assert_array_equal(only_added.mask, COARSE | after)
    np.testing.assert_array_equal(only_removed.mask, COARSE & after)
    assert (COARSE & ~after).any() and (after & ~COARSE).any()
    assert only_added.kept_share + only_removed.kept_share == pytest.approx(1)
    assert only_added.kept_share == pytest.approx((COARSE & ~after).sum() / (COARSE ^ after).sum())
    assert not only_added.kept_coarse and not only_removed.kept_coarse


def test_each_region_is_judged_for_itself(run, refined):
    bars = np.zeros(len(REGION_FEATURES) + 1)
    bars[REGION_FEATURES.index("log_area")], bars[-1] = 1, 2.0  # right are those above e⁻² of the mask's area
    guarded = run(replace(settings(1, 1), added=tuple(bars), removed=tuple(bars)))
    regions = Regions.between(COARSE, refined.mask)
    large = regions.pixels > np.exp(-2) * COARSE.sum()
    assert large.any() and not large.all()
    changed = regions.numbers[guarded.mask != COARSE]
    assert set(changed.tolist()) == set((np.flatnonzero(large) + 1).tolist())


def test_a_change_that_nothing_speaks_for_is_put_back(run, refined):
    corners = (np.s_[:24, :24], np.s_[:24, -24:], np.s_[-24:, :24], np.s_[-24:, -24:])
    corner = next(part for part in corners if not (COARSE | refined.mask)[part].any())
    probability = refined.probability.copy()
    probability[corner] = 0.9
    guarded, usual = run(result=replace(refined, probability=probability)), run()
    assert not usual.kept_coarse and not guarded.mask[corner].any()
    assert guarded.kept_share > usual.kept_share
    assert guarded.pixel_confidence.shape == COARSE.shape and guarded.pixel_confidence.dtype == np.float16
    assert guarded.pixel_confidence[corner].mean() < usual.pixel_confidence[corner].mean()


def test_masks_of_several_labels_stay_disjoint(refined):
    both = divide_pixels([guard_changes(SCENE.image, refined, settings(1, 1))] * 2)
    assert not (both[0].mask & both[1].mask).any() and both[0].mask.any() and not both[0].kept_coarse


def test_a_mask_that_is_kept_loses_no_pixel_to_others(refined):
    less = SCENE.coarse * np.float32(0.9)
    given = refined, replace(refined, coarse=less)
    both = divide_pixels([guard_changes(SCENE.image, each, settings(1, 1, threshold=1.01)) for each in given])
    for each, coarse in zip(both, (SCENE.coarse, less), strict=True):
        assert each.kept_coarse
        np.testing.assert_array_equal(each.mask, coarse > 0.5)
        np.testing.assert_array_equal(each.probability, coarse)


def test_a_mask_that_did_not_change_is_the_coarse_one(run, refined):
    guarded = run(result=replace(refined, probability=SCENE.coarse, mask=COARSE))
    assert guarded.kept_coarse and guarded.kept_share == 1 and np.isfinite(guarded.confidence)
    np.testing.assert_array_equal(guarded.mask, COARSE)


def test_a_mask_that_went_as_a_whole_is_the_coarse_one(run, refined):
    nothing = np.zeros_like(SCENE.coarse)
    guarded = run(settings(1, 1), replace(refined, probability=nothing, mask=nothing > 0.5))
    assert guarded.kept_coarse and guarded.kept_share == 1
    np.testing.assert_array_equal(guarded.mask, COARSE)


def test_what_regions_say_of_the_mask():
    before, after = np.zeros((4, 10), bool), np.zeros((4, 10), bool)
    before[:, :5], after[:, 2:6] = True, True  # 8 pixels go, 4 come, of 24
    regions = Regions.between(before, after)
    judged = Judged(regions=regions, odds=np.where(regions.added, np.log(3), -1.0))  # 3 : 1; the other is refused
    found = dict(zip(MASK_FEATURES, describe_mask(judged), strict=True))
    assert found["expected"] == pytest.approx(4 / 24 * 0.5) and found["at_risk"] == pytest.approx(4 / 24 * 0.25)
    assert found["spread"] == pytest.approx(4 / 24 * np.sqrt(3) / 4)
    assert found["added"] == 0.2 and found["removed"] == 0
    assert found["agreement"] == pytest.approx(20 / 24) and found["refused"] == pytest.approx(8 / 24)


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_an_image_that_shows_nothing_keeps_the_coarse_mask(colour):
    """Also where the settings hold every change for right: nothing like it was in the fit."""
    rng = np.random.default_rng(0)
    flat = np.clip(colour + rng.integers(-2, 3, SCENE.image.shape), 0, 255).astype(np.uint8)
    moved = np.roll(SCENE.coarse, 9, 1)
    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        result = refiner(flat, SCENE.coarse, SCENE.label, guard=False)
        for each in (result, replace(result, probability=moved, mask=moved > 0.5)):
            for numbers in (None, settings(1, 1)):
                [guarded] = divide_pixels([guard_changes(flat, each, numbers)])
                np.testing.assert_array_equal(guarded.mask, COARSE)
                np.testing.assert_array_equal(guarded.probability, SCENE.coarse)
                assert guarded.kept_coarse and guarded.kept_share == 1 and guarded.confidence == 0


def test_features_beyond_what_was_seen_count_as_the_last_that_was():
    before, after = np.zeros((4, 10), bool), np.zeros((4, 10), bool)
    before[:, :5], after[:, 2:6] = True, True
    regions, numbers = Regions.between(before, after), GuardSettings()
    lows, highs = (
        np.stack([np.array(side) for side in ends])
        for ends in zip(
            *((numbers.added_range if added else numbers.removed_range) for added in regions.added), strict=True
        )
    )
    far = judge_regions(regions, highs + 100, numbers)
    np.testing.assert_array_equal(far, judge_regions(regions, highs, numbers))
    np.testing.assert_array_equal(judge_regions(regions, lows - 100, numbers), judge_regions(regions, lows, numbers))
    assert (far != judge_regions(regions, lows, numbers)).all()


def test_ranges_are_as_many_as_features():
    with pytest.raises(SettingsError, match="mask_range: expected 9 least and 9 greatest values"):
        GuardSettings(mask_range=((0.0,), (1.0,)))


def test_weights_are_as_many_as_features():
    with pytest.raises(SettingsError, match="removed: expected 18 weights and a constant, got 3 numbers"):
        GuardSettings(removed=(1.0, 2.0, 3.0))


def test_the_guard_is_on_unless_it_is_left_out(run, refined):
    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        usual = refiner(SCENE.image, SCENE.coarse, SCENE.label)
    np.testing.assert_array_equal(usual.probability, run().probability)
    np.testing.assert_array_equal(usual.mask, run().mask)
    assert usual.confidence == run().confidence and refined.confidence is None
