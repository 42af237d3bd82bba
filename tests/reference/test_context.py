"""Phrases in their captions: PyTorch's side against the runtime's, from tokens to masks, and from training on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segrefine.assets import demo_bundle, demo_checkpoint, demo_gs_bundle, demo_gs_checkpoint, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.export.comparison import ParityScene
from segrefine.export.zero_shot_parity import run_zero_shot_reference
from segrefine.reference.checkpoint import load_checkpoint, load_label_checkpoint
from segrefine.reference.context import reorder, tokenize
from segrefine.reference.gs import Gs
from segrefine.reference.zero_shot import ZeroShot
from segrefine.runtime.segmenter import Segmenter
from segrefine.runtime.words.context import CaptionedPhrase, read_caption, read_in_context
from segrefine.runtime.words.tokenizer import ClipTokenizer
from segrefine.runtime.zero_shot import ZeroShotSegmenter
from segrefine.settings import GsSettings, ZeroShotSettings
from segrefine.train.batches import TextEncoder
from segrefine.train.narratives import NarrativeScenes
from segrefine.train.part import Part
from segrefine.train.prepared import load_scene, store_scene
from segrefine.train.templates import mirror_phrase
from tests.datasets.benchmark_sets import narrative, write_narratives
from tests.examples import examples

WORDS = ["the", "fox", "red", "car's", "left", "of,", "tree.", "big", "and", "apple", "isn't"]


@pytest.fixture(scope="module")
def checkpoint():
    return load_label_checkpoint(demo_gs_checkpoint())


@settings(max_examples=examples(40), deadline=None)
@given(
    before=st.lists(st.sampled_from(WORDS), max_size=40), own=st.lists(st.sampled_from(WORDS), min_size=1, max_size=4)
)
def test_both_sides_build_the_same_windows(before, own):
    checkpoint = load_label_checkpoint(demo_gs_checkpoint())
    theirs = ClipTokenizer.from_folder(demo_gs_bundle() / "tokenizer")
    text = " ".join(own)
    caption = " ".join([*before, text, "and so on"])
    phrase = CaptionedPhrase(text, caption, len(" ".join(before)) + bool(before))
    window = read_in_context(theirs, phrase)
    ids, order = tokenize(checkpoint.tokenizer, phrase)
    assert ids == window.input_ids[0].tolist() and order == window.order.tolist()


def test_masks_of_both_sides_agree(checkpoint):
    """The engines and PyTorch, from the same noise; without the setting, the caption changes nothing."""
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    phrase = CaptionedPhrase("the fox", "the car left of the fox", 16)
    noise = np.random.default_rng(0).standard_normal((1, checkpoint.codec.channels, 16, 16), np.float32)
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)
    found = {}
    with Segmenter.from_bundle(demo_gs_bundle(), threads=1) as segment:
        side = 64 // checkpoint.vae_scale_factor
        noise = np.random.default_rng(0).standard_normal((1, checkpoint.codec.channels, side, side), np.float32)
        for context in (False, True):
            ours = segment(image, [phrase], settings={"context": context}, seed=0).segments[0].samples
            reference = Gs(checkpoint, GsSettings(context=context))
            theirs = reference.segment(pixels, [phrase], torch.from_numpy(noise)).numpy()[0]
            np.testing.assert_allclose(ours, theirs, atol=2e-3)
            found[context] = theirs
    assert np.abs(found[True] - found[False]).max() > 1e-3


def test_zero_shot_maps_of_both_sides_agree():
    """The same for a text-to-image model, which gets the phrase's own states, and looks where those look."""
    phrases = read_caption("[a car] left of [the fox]")
    checkpoint = load_checkpoint(demo_checkpoint())
    image = next(iter(load_samples(demo_samples()).values())).image
    scene = ParityScene(image=image, coarse=np.zeros(image.shape[:2], np.float32), label="fox")
    found = {}
    with ZeroShotSegmenter.from_bundle(demo_bundle(), threads=1) as segmenter:
        for context in (False, True):
            changed = ZeroShotSettings(context=context)
            ours = segmenter.look(scene.image, phrases, settings=changed).maps
            theirs = run_zero_shot_reference(segmenter, ZeroShot(checkpoint, changed), scene, phrases)
            for got, wanted in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(got.attention, wanted.attention, atol=1e-4)
                np.testing.assert_allclose(got.probability, wanted.probability, atol=2e-3)
            found[context] = theirs[1].probability
    assert np.abs(found[True] - found[False]).max() > 1e-3


def test_states_are_gathered():
    states = torch.arange(8.0).reshape(1, 4, 2)
    assert reorder(states, torch.tensor([[0, 3, 3, 1]]))[0, :, 0].tolist() == [0, 6, 6, 2]


def test_training_reads_phrases_in_their_captions(checkpoint, tmp_path):
    said = [narrative(1, ("In this image there is", ()), ("a fox", [1]), ("and left of it", ()), ("a car", [70_000]))]
    root = write_narratives(tmp_path / "png", said)
    source = NarrativeScenes(root / "annotations/png_coco_val2017.json", root / "images/val2017", Part())
    scene = source.read(0)
    store_scene(tmp_path / "scene.npz", scene)
    fox, car = (region.phrases[0] for region in load_scene(tmp_path / "scene.npz").regions if region.phrases)
    assert isinstance(fox, CaptionedPhrase) and isinstance(car, CaptionedPhrase)
    assert (fox, fox.start) == ("a fox", 23) and car.caption == said[0]["caption"]
    mirrored = mirror_phrase(car)
    assert isinstance(mirrored, CaptionedPhrase)
    assert mirrored == "a car" and "right of it a car" in mirrored.caption and mirrored.start == car.start + 1
    alone, plain = TextEncoder(dict(checkpoint.tokenizers))([fox, car])
    context, order = TextEncoder(dict(checkpoint.tokenizers), context=True)([fox, car])
    assert (plain == torch.arange(plain.shape[1])).all() and not torch.equal(plain, order)
    picked = torch.gather(context["tokenizer"], 1, order)
    assert torch.equal(picked[:, :4], alone["tokenizer"][:, :4])


def test_an_exported_model_says_how_it_was_trained(checkpoint, tmp_path, monkeypatch):
    import shutil

    from segrefine.export import bundle_export

    folder = Path(shutil.copytree(demo_gs_checkpoint(), tmp_path / "gs"))
    assert bundle_export._plan_labels(folder).settings.to_dict()["context"] is False
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"caption_context": True}))
    assert bundle_export._plan_labels(folder).settings.to_dict()["context"] is True
