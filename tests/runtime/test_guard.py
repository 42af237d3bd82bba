"""The guard keeps what it was told to trust, puts back the rest, and says what it did."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from segrefine.assets import demo_bundle, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.errors import SettingsError
from segrefine.runtime.files.mask import CoarseMask
from segrefine.runtime.guard import (
    MASK_FEATURES,
    Guard,
    Judge,
    Judged,
    describe_mask,
    free_guard,
    guard_changes,
    judge_changes,
)
from segrefine.runtime.imaging.edges import sharpen
from segrefine.runtime.masked_image import move_to_edges
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.refinement import divide_pixels
from segrefine.runtime.regions import CAUTIOUS_BESIDE, FREE_FEATURES, REGION_FEATURES, Regions

SCENE = load_samples(demo_samples())["03-cactus-shift"]
EASILY = {"effect_range": (0.007, 0.014), "worth_range": (0.2, 1.0)}
"""With these the evidence counts fully in that scene."""
SURELY = {"effect_range": (0.0, 1e-6), "worth_range": (-9.0, -8.0)}
"""With these it counts fully everywhere."""
COARSE = SCENE.coarse > 0.5


def judge(constant: float, **weights: float) -> Judge:
    """A judge of regions with weights of some features and a constant."""
    known = [weights.get(name, 0.0) for name in REGION_FEATURES]
    blank = (0.0,) * len(known), (1.0,) * len(known)
    return Judge(mean=blank[0], scale=blank[1], weights=(*known, constant))


def settings(added: float, removed: float, threshold: float = 0.0) -> Guard:
    """A guard that holds all regions of a kind for right (above 0) or wrong (below)."""
    return replace(
        free_guard(), features=REGION_FEATURES, added=judge(added), removed=judge(removed), threshold=threshold
    )


@pytest.fixture(scope="module")
def proposals():
    """A refinement by evidence and edges; the guard has the edge step alone as its second proposal."""
    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        return refiner(SCENE.image, SCENE.coarse, SCENE.label, guard=False, settings=EASILY)


@pytest.fixture(scope="module")
def refined(proposals):
    """The same without the second proposal."""
    return replace(proposals, edge_step=False)


@pytest.fixture(scope="module")
def run(refined):
    def run(settings=None, result=refined):
        known = replace(result, evidence_worth=1.0)  # the guard of the bundle judges alone
        return divide_pixels([guard_changes(SCENE.image, known, settings)])[0]

    return run


def test_what_is_trusted_stays(run, refined):
    guarded = run(settings(1, 1))
    np.testing.assert_array_equal(guarded.mask, refined.mask)
    np.testing.assert_array_equal(guarded.probability, refined.probability)
    assert not guarded.kept_coarse and guarded.kept_share == 0 and 0 < guarded.confidence < 1
    assert refined.confidence is None and refined.kept_share == 0


@pytest.mark.parametrize("trust", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
@pytest.mark.parametrize("threshold", [0.0, 1.01])
def test_the_guard_gives_a_mask_and_a_probability_that_agree(refined, trust, threshold):
    guarded = guard_changes(SCENE.image, refined, settings(trust[0], trust[1], threshold=threshold))
    np.testing.assert_array_equal(guarded.mask, guarded.probability > 0.5)


def test_mask_and_probability_agree_on_every_path():
    small = np.zeros_like(SCENE.coarse)
    small[20:27, 30:38] = 1
    rolled = np.roll(SCENE.coarse, 25, 1)
    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        for guard in (True, False):
            for mask in (SCENE.coarse, small):
                alone, [listed] = (
                    refiner(SCENE.image, mask, SCENE.label, guard=guard),
                    refiner(SCENE.image, [(SCENE.label, mask)], guard=guard),
                )
                np.testing.assert_array_equal(alone.mask, alone.probability > 0.5)
                np.testing.assert_array_equal(alone.probability, listed.probability)
                np.testing.assert_array_equal(alone.mask, listed.mask)
            for each in refiner(SCENE.image, [("fox", SCENE.coarse), ("car", rolled), ("car", small)], guard=guard):
                assert not (each.mask & (each.probability <= 0.5)).any()


def test_the_coarse_mask_stays_where_trust_is_not_reached(run):
    for doubtful in (settings(1, 1, threshold=1.01), settings(-1, -1)):
        guarded = run(doubtful)
        np.testing.assert_array_equal(guarded.mask, COARSE)
        np.testing.assert_array_equal(guarded.probability, SCENE.coarse)
        assert guarded.kept_coarse and guarded.kept_share == 1
    assert run(settings(1, 1, threshold=1.01)).confidence == run(settings(1, 1)).confidence


@pytest.mark.parametrize("threshold", [0.0, 1.01])
def test_a_verdict_is_of_the_changes_whether_they_are_accepted_or_not(run, refined, threshold):
    guard = settings(1, -1, threshold=threshold)
    guarded = run(guard)
    verdict = judge_changes(SCENE.image, replace(refined, evidence_worth=1.0), guard)
    assert (verdict.confidence, verdict.threshold) == (guarded.confidence, guarded.confidence_threshold)
    assert verdict.trusted == (threshold == 0.0) != guarded.kept_coarse
    np.testing.assert_array_equal(verdict.judged.mask, COARSE | refined.mask)


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
    by_area = judge(2.0, log_area=1.0)  # right are those above e⁻² of the mask's area
    guarded = run(replace(settings(1, 1), added=by_area, removed=by_area))
    cautious = sharpen(SCENE.image, SCENE.coarse, np.zeros_like(SCENE.coarse), CAUTIOUS_BESIDE, worth=1)
    regions = Regions.between(COARSE, refined.mask, cautious > 0.5)
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


def test_of_two_trusted_proposals_the_guard_takes_the_one_that_should_win_more(proposals):
    known = replace(proposals, evidence_worth=1.0)
    edges = move_to_edges(SCENE.image, SCENE.coarse, None)
    alone = guard_changes(SCENE.image, replace(known, probability=edges, evidence_worth=0.0, rounds=()))
    assert not alone.kept_coarse
    for odds, by_edges in ((9.0, False), (0.1, True)):
        surely = replace(settings(1, 1), added=judge(odds), removed=judge(odds))
        guarded = guard_changes(SCENE.image, known, surely)
        expected = alone if by_edges else guard_changes(SCENE.image, replace(known, edge_step=False), surely)
        np.testing.assert_array_equal(guarded.probability, expected.probability)
        np.testing.assert_array_equal(guarded.pixel_confidence, expected.pixel_confidence)
        assert guarded.confidence == expected.confidence and guarded.took_edges is by_edges
        assert guarded.evidence_worth == 1.0 and guarded.rounds == known.rounds


def test_the_edge_step_alone_serves_where_the_evidence_is_not_trusted(proposals):
    strict = settings(1, 1, threshold=1.01)
    known = replace(proposals, evidence_worth=1.0)
    assert guard_changes(SCENE.image, known, strict).took_edges
    nowhere = np.zeros(COARSE.shape, np.bool_)
    kept = guard_changes(SCENE.image, replace(known, confusion=nowhere), strict)  # neither is trusted
    assert kept.kept_coarse and not kept.took_edges
    np.testing.assert_array_equal(kept.mask, COARSE)


def test_the_second_proposal_keeps_to_the_confusion_area_and_to_the_settings():
    doubt = np.zeros(COARSE.shape, np.bool_)
    doubt[:70] = True
    given = CoarseMask(probability=SCENE.coarse, confusion=doubt)
    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        distrusting = refiner.derive(guard=settings(-1, -1))
        partly = distrusting(SCENE.image, given, SCENE.label, settings=SURELY)
        without = distrusting(SCENE.image, given, SCENE.label, settings={**SURELY, "edges": False})
        worthless = distrusting(SCENE.image, given, SCENE.label, settings={"effect_range": (1e6, 2e6)})
    assert partly.took_edges and (partly.mask != COARSE).any()
    np.testing.assert_array_equal(partly.probability, worthless.probability)
    np.testing.assert_array_equal(partly.mask[~doubt], COARSE[~doubt])
    assert without.kept_coarse and not without.took_edges and not worthless.took_edges


def test_what_regions_say_of_the_mask():
    before, after = np.zeros((4, 10), bool), np.zeros((4, 10), bool)
    before[:, :5], after[:, 2:6] = True, True  # 8 pixels go, 4 come, of 24
    regions = Regions.between(before, after, before)
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


def test_features_beyond_what_was_seen_count_as_three_deviations():
    ruler = Judge(mean=(1.0,), scale=(2.0,), weights=(5.0, 0.0))
    np.testing.assert_allclose(ruler(np.array([[7.0], [100.0], [-5.0], [-100.0], [3.0]])), [15, 15, -15, -15, 5])


def test_pairs_of_features_count_where_there_are_weights_for_them():
    pairs = Judge(mean=(0.0, 0.0), scale=(1.0, 1.0), weights=(0.0, 0.0, 2.0, 3.0, 5.0, 7.0))  # aa, ab, bb, constant
    np.testing.assert_allclose(pairs(np.array([[1.0, -2.0]])), [2 - 6 + 20 + 7])


def test_a_guard_becomes_json_and_comes_back():
    guard = free_guard()
    assert Guard.from_dict(json.loads(json.dumps(guard.to_dict()))) == guard
    assert set(guard.features) == set(FREE_FEATURES) and guard.about["data"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw.pop("added"), "this is no guard: KeyError"),
        (lambda raw: raw.update(extra=1), "unknown entry 'extra'"),
        (lambda raw: raw.update(features=["size"]), "unknown feature 'size'"),
        (lambda raw: raw["mask"].update(mean=[0.0]), "expected 1 scales and 2 or 3 weights"),
        (lambda raw: raw["removed"].update(mean=[], scale=[], weights=[1.0]), "removed: expected 15 features, got 0"),
        (lambda raw: raw["pixels"].update(weights=["a", "b"]), "this is no guard: ValueError"),
    ],
)
def test_a_damaged_guard_is_refused(damage, message):
    raw = json.loads(json.dumps(free_guard().to_dict()))
    damage(raw)
    with pytest.raises(SettingsError, match=message):
        Guard.from_dict(raw)


def test_the_worth_of_evidence_decides_who_judges(refined):
    """Where the evidence is worth nothing, only the free guard is asked; in between, the odds are mixed."""
    strict = settings(-1, -1)
    for worth in (0.0, None):
        result = replace(refined, evidence_worth=worth)
        ours, free = guard_changes(SCENE.image, result, strict), guard_changes(SCENE.image, result)
        np.testing.assert_array_equal(ours.probability, free.probability)
        assert ours.confidence == free.confidence
    half = guard_changes(SCENE.image, replace(refined, evidence_worth=0.5), settings(1, 1, threshold=0.5))
    assert half.confidence_threshold == pytest.approx(0.5 * (0.5 + free_guard().threshold))


def test_the_guard_is_on_unless_it_is_left_out(proposals):
    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        usual = refiner(SCENE.image, SCENE.coarse, SCENE.label, settings=EASILY)
        judged = guard_changes(SCENE.image, proposals, refiner.guard)
    np.testing.assert_array_equal(usual.probability, judged.probability)
    assert usual.confidence == judged.confidence and proposals.confidence is None
