"""Evidence counts where the model knows the label, and costs little where it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segrefine.assets import demo_bundle, demo_samples, photo_samples
from segrefine.cli.samples import load_samples
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import load_mask
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.worth import (
    NULL_WORDS,
    WordEffect,
    choose_nulls,
    compare_words,
    measure_likeness,
    measure_worth,
)
from segrefine.settings import G4SegSettings
from tests.counting import count_samples

SCENE = load_samples(demo_samples())["02-car-erode"]
INSIDE = np.zeros((8, 8), bool)
INSIDE[2:6, 2:6] = True
COARSE = INSIDE.astype(np.float32)
SETTINGS = G4SegSettings()


def effect(inside: float, outside: float, *, change: float = 0.1, channels: tuple[int, ...] = (0,)) -> WordEffect:
    """A word that explains the mask by `inside` and the rest by `outside`, and changes some of four channels."""
    evidence = np.where(INSIDE, inside, outside).astype(np.float32)[None]
    shift = np.zeros((1, 2, 4, 8, 8), np.float32)
    shift[:, :, channels] = np.sqrt(change * 4 / len(channels))
    return WordEffect(evidence=evidence, shift=shift, error=np.ones((8, 8), np.float32))


NULLS = effect(0.1, 0.1, channels=(1,))


def test_the_change_of_a_word_is_the_mean_square_of_its_shift():
    np.testing.assert_allclose(
        effect(0.3, 0.05, change=0.2, channels=(0, 3)).change, np.full((1, 8, 8), 0.2), rtol=1e-6
    )


def test_a_label_that_stands_out_counts_fully():
    assert measure_worth(effect(0.3, 0.05), NULLS, COARSE, SETTINGS) == 1


@pytest.mark.parametrize(
    "unknown",
    [
        effect(0.05, 0.05),  # other words explain the mask better, and the label explains nothing in particular
        effect(0.3, 0.05, change=1e-4),  # the word changes next to nothing
        effect(-0.1, 0.1),  # with the label the mask is explained worse
        effect(0.0, 0.0),
        effect(0.3, 0.05, channels=(1,)),  # it does what other words do
    ],
)
def test_a_label_that_the_model_does_not_know_counts_nothing(unknown):
    assert measure_worth(unknown, NULLS, COARSE, SETTINGS) == 0


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0, 1e4])
def test_no_scale_of_latents_or_errors_matters(scale):
    rng = np.random.default_rng(0)
    evidence = rng.normal(0.1, 0.1, (3, 8, 8)) + np.array([0.1, 0, 0])[:, None, None]
    shift, error = rng.normal(0, 0.1, (3, 2, 4, 8, 8)), rng.random((8, 8)) + 0.5

    def worth(by: float) -> float:
        each, moved, left = (np.asarray(a, np.float32) for a in (by * evidence, np.sqrt(by) * shift, by * error))
        label, nulls = (WordEffect(evidence=each[k], shift=moved[k], error=left) for k in (slice(1), slice(1, 3)))
        return measure_worth(label, nulls, COARSE, SETTINGS)

    assert 0 < worth(1.0) < 1
    assert worth(scale) == pytest.approx(worth(1.0), rel=1e-4)


def test_worth_rises_with_what_speaks_for_it():
    nulls = NULLS.evidence
    by_ratio = [compare_words(effect(inside, 0.05).evidence[0], nulls, INSIDE) for inside in (0.06, 0.1, 0.2, 0.4)]
    assert by_ratio == sorted(by_ratio) and len(set(by_ratio)) == 4
    everywhere = np.ones_like(INSIDE)
    assert compare_words(effect(0.2, 0.2).evidence[0], nulls, everywhere) == pytest.approx(np.log(2), abs=1e-5)


def test_likeness_is_the_mean_cosine():
    rng = np.random.default_rng(0)
    label, nulls = (rng.normal(size=size).astype(np.float32) for size in ((2, 4, 8, 8), (3, 2, 4, 8, 8)))
    flat = [each.ravel() / np.linalg.norm(each) for each in (label, *nulls)]
    expected = np.mean([flat[0] @ each for each in flat[1:]])
    assert measure_likeness(label, nulls) == pytest.approx(expected, abs=1e-6)
    assert measure_likeness(label, np.stack([2 * label, -3 * label])) == pytest.approx(0, abs=1e-6)
    assert measure_likeness(label, np.stack([label, 5 * label])) == pytest.approx(1)
    assert measure_likeness(0 * label, nulls) == 0


def test_nulls_have_no_word_of_a_label():
    assert choose_nulls(["fox"], SETTINGS) == NULL_WORDS[:2]
    assert choose_nulls(["the Banana boat", "umbrella"], SETTINGS) == ("guitar", "chair")
    assert choose_nulls(["fox"], replace(SETTINGS, worth_range=())) == ()
    assert choose_nulls(["fox"], replace(SETTINGS, text_weight=0.0)) == ()


@pytest.fixture
def counted():
    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        counters = count_samples(refiner)
        yield refiner.derive(counters), counters


@pytest.fixture(scope="module")
def photograph():
    """A photograph of sheep, which the demo model does not know, and a coarse mask of them."""
    image = load_image(photo_samples() / "images" / "sheep.jpg")
    return image, load_mask(photo_samples() / "masks" / "sheep.png", (image.shape[0], image.shape[1]))


def test_a_label_that_says_nothing_costs_at_most_eight_passes(counted, photograph):
    refiner, counters = counted
    result = refiner(*photograph, "sheep", guard=False)
    assert result.evidence_worth == 0 and result.rounds == () and not result.text_evidence.any()
    assert 0 < counters["unet"].samples <= 8
    assert counters["unet_features"].samples == counters["alignment"].samples == 0
    np.testing.assert_array_equal(result.paper_probability, photograph[1])


def test_a_label_that_counts_takes_as_many_passes_as_the_settings_say(counted):
    refiner, counters = counted
    result = refiner(SCENE.image, SCENE.coarse, SCENE.label, guard=False)
    assert result.evidence_worth == 1 and len(result.rounds) == 1
    assert counters["unet"].samples + counters["unet_features"].samples == refiner.settings.count_passes()


class Ignorant:
    """A UNet that tells words from no words, and hardly one word from another, as one of random weights does."""

    def __init__(self, engine) -> None:
        self.engine, self.spec = engine, engine.spec

    def __call__(self, feeds, **options):
        words = feeds["encoder_hidden_states"].mean(1)[:, :4]
        some = feeds["token_indicator"].any((1, 2))[:, None]
        change = np.where(some, np.array([0.3, -0.3, 0.3, -0.3]) + 0.05 * words, 0)[:, :, None, None]
        return {"out_sample": np.broadcast_to(change, feeds["sample"].shape).astype(np.float32)}

    def close(self) -> None:
        self.engine.close()


def test_a_model_whose_words_all_do_the_same_is_worth_nothing(counted):
    refiner, _ = counted
    ignorant = refiner.derive({"unet": Ignorant(refiner.engines["unet"])})
    samples = load_samples(demo_samples()).values()
    measured, trusted = (
        [ignorant(s.image, s.coarse, s.label, guard=False, settings=changes).evidence_worth for s in samples]
        for changes in ({}, {"likeness_range": (1.5, 2.0)})
    )
    assert max(trusted) > 0  # the other measures can be passed by chance
    assert max(measured) == 0


def test_of_several_labels_each_has_its_own_worth(counted):
    refiner, _ = counted
    masks = [(SCENE.label, SCENE.coarse), ("elephant", SCENE.coarse)]  # no elephant is in the picture
    right, wrong = refiner(SCENE.image, masks, guard=False)
    assert right.evidence_worth == 1 and wrong.evidence_worth < 1
    assert len(right.rounds) == 1 and len(wrong.rounds) == (wrong.evidence_worth > 0)


def test_evidence_that_is_not_measured_counts_fully(counted, photograph):
    refiner, _ = counted
    settings = replace(refiner.settings, worth_range=())
    result = refiner(*photograph, "sheep", guard=False, settings=settings)
    assert result.evidence_worth is None and len(result.rounds) == 1
