"""Several labels of one image, refined jointly."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from segrefine.assets import demo_bundle, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.errors import MaskError, PromptError
from segrefine.runtime import denoiser, pipeline
from segrefine.runtime.evidence import against_others
from segrefine.runtime.files.mask import CoarseMask
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.refinement import label_map
from tests.backends import CPU_BACKENDS

SCENE = load_samples(demo_samples())["08-cactus-two"]
LEFT = np.zeros_like(SCENE.coarse)
LEFT[40:90, 5:40] = 1
MASKS = [("cactus", SCENE.coarse), ("fox", LEFT)]
UNMEASURED: dict[str, list[float]] = {"worth_range": []}
"""All evidence counts, whatever it is worth."""


@pytest.fixture(scope="module")
def refiner():
    with Refiner.from_bundle(demo_bundle()) as opened:
        yield opened


def test_one_label_is_the_same_as_its_mask_alone(refiner):
    [joint], alone = refiner(SCENE.image, MASKS[:1]), refiner(SCENE.image, SCENE.coarse, "cactus")
    np.testing.assert_array_equal(joint.probability, alone.probability)
    np.testing.assert_array_equal(joint.mask, alone.mask)


def test_masks_are_disjoint_and_their_order_does_not_matter(refiner):
    first, second = (refiner(SCENE.image, masks, guard=False) for masks in (MASKS, MASKS[::-1]))
    for here, there in zip(first, second[::-1], strict=True):
        np.testing.assert_allclose(here.probability, there.probability, atol=1e-4)
    assert not (first[0].mask & first[1].mask).any() and first[0].mask.any()
    assert len(first[0].rounds) == len(refiner.settings.timesteps)
    assert first[0].rounds[0].generated.shape == first[0].latents.shape


def test_a_dict_of_masks_is_the_list_of_its_pairs(refiner):
    given = {"cactus": SCENE.coarse, "fox": LEFT}
    for ours, theirs in zip(refiner(SCENE.image, given), refiner(SCENE.image, list(given.items())), strict=True):
        assert ours.label == theirs.label
        np.testing.assert_array_equal(ours.mask, theirs.mask)


def test_the_same_mask_under_one_label_is_refined_once(refiner):
    alone = refiner(SCENE.image, SCENE.coarse, "cactus")
    twice = refiner(SCENE.image, [("cactus", SCENE.coarse), ("Cactus ", SCENE.coarse.copy())])
    assert alone.mask.any() and [each.label for each in twice] == ["cactus", "Cactus "]
    for each in twice:
        np.testing.assert_array_equal(each.probability, alone.probability)
        np.testing.assert_array_equal(each.mask, alone.mask)


def test_labels_know_of_each_other(refiner):
    joint = refiner(SCENE.image, MASKS, guard=False)[0]
    other = refiner(SCENE.image, [MASKS[0], ("car", LEFT)], guard=False)[0]
    assert np.abs(joint.probability - other.probability).max() > 1e-3


def test_the_image_is_encoded_once_and_steps_are_batches(refiner, monkeypatch):
    calls: dict[str, list[int]] = {}

    class Counting:
        def __init__(self, name, engine):
            self.name, self.engine, self.spec = name, engine, engine.spec

        def __call__(self, feeds, **extra):
            calls.setdefault(self.name, []).append(len(next(iter(feeds.values()))))
            return self.engine(feeds, **extra)

    engines = {name: Counting(name, engine) for name, engine in refiner.engines.items()}
    counted = refiner.derive(engines)
    counted(SCENE.image, MASKS, settings=UNMEASURED)
    levels, noises = len(counted.settings.text_timesteps), counted.settings.noises
    trials = len(counted.settings.joint_strengths)
    assert calls["vae_encoder"] == [1] and calls["text_encoder"] == [3]
    assert sum(calls["unet"]) == levels * (1 + 2 * trials) + 2 * noises
    assert calls["unet_features"] == [1, 2] and calls["alignment"] == [2]


def test_instances_of_one_label(refiner):
    halves = np.zeros_like(SCENE.coarse), np.zeros_like(SCENE.coarse)
    halves[0][:, :64], halves[1][:, 64:] = SCENE.coarse[:, :64], SCENE.coarse[:, 64:]
    results = refiner(SCENE.image, [("cactus", half) for half in halves], guard=False)
    assert not (results[0].mask & results[1].mask).any()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_backends_agree(refiner, backend):
    with Refiner.from_bundle(demo_bundle(), backend=backend) as other:
        both = (run(SCENE.image, MASKS, guard=False, settings=UNMEASURED) for run in (refiner, other))
        for ours, theirs in zip(*both, strict=True):
            assert np.abs(ours.rounds[-1].probability - theirs.rounds[-1].probability).max() < 2e-3
            assert (ours.mask != theirs.mask).mean() < 0.002


def test_what_is_certain_stays(refiner):
    confusion = np.zeros(LEFT.shape, bool)
    confusion[30:100, :50] = True
    masks = [MASKS[0], ("fox", CoarseMask(probability=LEFT, confusion=confusion))]
    fox = refiner(SCENE.image, masks, guard=False)[1]
    np.testing.assert_array_equal(fox.probability[~confusion], LEFT[~confusion])


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ([], MaskError, "no mask to refine"),
        ([MASKS[0], ("fox", LEFT * 0)], MaskError, "fox: the mask is empty"),
        ([MASKS[0], ("fox", LEFT[1:])], MaskError, "fox: expected a mask of 128×128 pixels"),
        ([MASKS[0], ("", LEFT)], PromptError, "expected a label that names something"),
        ([MASKS[0], ("fox", CoarseMask(probability=LEFT, confusion=LEFT[1:] > 0))], MaskError, "fox: .*confusion area"),
    ],
)
def test_masks_that_cannot_be_refined_are_named(refiner, masks, error, message):
    with pytest.raises(error, match=message) as caught:
        refiner(SCENE.image, masks)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("masks", "message", "hint"),
    [
        (zip(*MASKS, strict=True), "expected a list of pairs of label and mask, got zip", "such as"),
        ([LEFT, LEFT], "expected a list of pairs of label and mask, got a list of something else", "such as"),
        ("fox", "expected a list of pairs of label and mask, got a str of something else", "such as"),
        (None, "expected a list of pairs of label and mask, got NoneType", "such as"),
    ],
)
def test_what_is_no_list_of_labels_and_masks_is_named(refiner, masks, message, hint):
    with pytest.raises(MaskError) as caught:
        refiner(SCENE.image, masks)
    assert message in str(caught.value) and hint in caught.value.hint


def test_many_labels_go_in_parts(refiner, monkeypatch):
    """Features of as many labels as a batch takes are there at a time; their results stay the same."""
    masks = [*MASKS, ("car", LEFT)]
    whole = refiner(SCENE.image, masks, guard=False, settings=UNMEASURED)
    cells = whole[0].rounds[0].probability.size
    for module in (pipeline, denoiser):
        monkeypatch.setattr(module, "MAX_PIXELS", 2 * cells)
    for ours, wanted in zip(refiner(SCENE.image, masks, guard=False, settings=UNMEASURED), whole, strict=True):
        np.testing.assert_allclose(ours.probability, wanted.probability, atol=1e-5)
        np.testing.assert_allclose(ours.rounds[0].discrepancy, wanted.rounds[0].discrepancy, atol=1e-5)


@pytest.mark.parametrize("crop", [False, True])
def test_labels_take_no_memory_besides_their_results(refiner, crop):
    """The work on one label of a large image is done before that on the next begins."""
    image = np.asarray(Image.fromarray(SCENE.image).resize((1200, 1200)))
    masks = []
    for number in range(10):
        mask = np.zeros(image.shape[:2], np.float32)
        top = 100 * number
        mask[top : top + (90 if crop else 200), 300:390] = 1
        masks.append(("cactus", mask))
    size = masks[0][1].nbytes
    tracemalloc.start()
    results = refiner(image, masks, crop=crop, guard=False)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (results[0].part is not None) == crop
    assert held < 1.5 * size * len(masks) and peak - held < 12 * size


def test_label_map():
    probability = np.array([[[0.9, 0.6, 0.5, 0.1]], [[0.8, 0.7, 0.2, 0.1]]], np.float32)
    np.testing.assert_array_equal(label_map(probability), [[1, 2, 0, 0]])


def test_evidence_against_others():
    text = np.array([4.0, 2.0, 1.0], np.float32)[:, None, None]
    np.testing.assert_allclose(against_others(text, ["a", "b", "c"], 0.5).ravel(), [3.25, 0.75, -0.5])
    np.testing.assert_allclose(against_others(text, ["a", "a", "c"], 1.0).ravel(), [3, 1, -2])
    np.testing.assert_array_equal(against_others(text[:1], ["a"], 1.0), text[:1])
