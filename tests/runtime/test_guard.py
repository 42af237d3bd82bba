"""The guard trusts what it was told to trust, and says what it did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segrefine.assets import demo_bundle, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.errors import MaskError
from segrefine.runtime.guard import FEATURES, GuardSettings, describe, guard
from segrefine.runtime.pipeline import Refiner

SCENE = load_samples(demo_samples())["02-car-erode"]


@pytest.fixture(scope="module")
def refined():
    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        return refiner.fit(SCENE.image), refiner(SCENE.image, SCENE.coarse, SCENE.label)


def test_the_coarse_mask_stays_where_trust_is_not_reached(refined):
    fit, result = refined
    [trusted] = guard(fit, [SCENE.coarse], [result], GuardSettings(threshold=0.0))
    [doubted] = guard(fit, [SCENE.coarse], [result], GuardSettings(threshold=1.01))
    assert not trusted.kept_coarse and doubted.kept_coarse and trusted.confidence == doubted.confidence
    np.testing.assert_array_equal(trusted.mask, result.mask)
    np.testing.assert_array_equal(doubted.mask, SCENE.coarse > 0.5)
    assert (doubted.mask != trusted.mask).any() and 0 < trusted.confidence < 1
    assert trusted.pixel_confidence.shape == result.mask.shape and result.confidence is None


def test_an_uncertain_refinement_is_trusted_less(refined):
    fit, result = refined
    vague = replace(result, probability=0.5 + 0.2 * (result.probability - 0.5))
    sure, doubtful = (guard(fit, [SCENE.coarse], [each])[0] for each in (result, vague))
    assert sure.confidence > doubtful.confidence and doubtful.kept_coarse
    assert sure.pixel_confidence.mean() > doubtful.pixel_confidence.mean()


def test_masks_of_several_labels_stay_disjoint(refined):
    fit, result = refined
    both = guard(fit, [SCENE.coarse, SCENE.coarse], [result, result], GuardSettings(threshold=1.01))
    assert not (both[0].mask & both[1].mask).any()


def test_features(refined):
    fit, result = refined
    unchanged = replace(result, probability=SCENE.coarse)
    found = dict(zip(FEATURES, describe(fit, SCENE.coarse, unchanged), strict=True))
    assert found["agreement"] == 1 and found["added"] == found["removed"] == 0
    assert found["log_share"] == pytest.approx(np.log((SCENE.coarse > 0.5).mean() + 1e-3))


def test_every_result_needs_its_coarse_mask(refined):
    with pytest.raises(MaskError, match="each of 1 results, got 2"):
        guard(refined[0], [SCENE.coarse] * 2, [refined[1]])
