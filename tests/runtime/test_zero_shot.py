"""Zero-shot segmentation on engines, with the demo model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import segrefine
from segrefine.assets import demo_bundle, demo_gs_bundle, demo_samples
from segrefine.bundle import Bundle
from segrefine.cli.samples import load_samples
from segrefine.errors import BundleError, ImageError, PromptError, SettingsError
from segrefine.runtime.chain import refine_segments
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.zero_shot import ZeroShotSegmenter, choose_rivals
from segrefine.settings import ZeroShotSettings
from tests.counting import count_samples

SAMPLE = "04-butterfly-ellipse"


@pytest.fixture(scope="module")
def segmenter():
    with ZeroShotSegmenter.from_bundle(demo_bundle(), backend="onnxruntime", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def sample():
    return load_samples(demo_samples())[SAMPLE]


def test_it_is_part_of_the_package():
    assert segrefine.ZeroShotSegmenter is ZeroShotSegmenter


def test_a_butterfly_is_found_and_a_rocket_is_not(segmenter, sample):
    butterfly, rocket = segmenter(sample.image, ["the butterfly", "the rocket"]).segments
    inside = sample.truth
    assert butterfly.probability[inside].mean() > butterfly.probability[~inside].mean() + 0.3
    assert not rocket.mask.any() and rocket.confidence == 0
    assert butterfly.mask.any() and butterfly.confidence > 0.5


def test_progress_ends_at_one(segmenter, sample):
    shares = []
    segmenter(sample.image, ["fox"], progress=lambda _, share: shares.append(share))
    assert shares == sorted(shares) and shares[-1] == 1


def test_the_same_noise_gives_the_same_masks(segmenter, sample):
    once, again, other = (
        segmenter(sample.image, ["the butterfly"], seed=seed).segments[0].probability for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 1e-3


@pytest.mark.parametrize("size", [(40, 64), (31, 90), (8, 8)])
def test_images_of_any_shape(segmenter, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for segment in segmenter(pixels, ["fox", "red car"]).segments:
        assert segment.probability.shape == size and np.isfinite(segment.probability).all()


@pytest.mark.parametrize("changes", [{}, {"evidence_logit": 10.0}, {"attention_weight": 0.0}])
def test_passes_are_those_that_the_settings_count(segmenter, sample, changes):
    counters = count_samples(segmenter)
    counted = segmenter.derive(counters, settings=changes)
    counted(sample.image, ["fox", "car", "tree"])
    assert counters["unet"].samples + counters["unet_attention"].samples == counted.settings.count_passes(3)


def test_eight_phrases_cost_less_than_twice_as_many_passes_as_one():
    settings = ZeroShotSettings()
    assert settings.count_passes(8) <= 3 * settings.count_passes(1)


def test_rivals_are_other_words():
    settings = ZeroShotSettings(rivals=3)
    assert choose_rivals(["the Banana"], settings, lambda word: True) == ("boat", "umbrella", "guitar")
    assert choose_rivals(["a", "b", "c"], settings, lambda word: True) == ("banana",)
    assert choose_rivals(["a", "b", "c"], settings, lambda word: word != "banana") == ("boat",)
    assert choose_rivals(["a", "b", "c", "d"], settings, lambda word: True) == ()
    assert choose_rivals(["a"], ZeroShotSettings(evidence_logit=1.0), lambda word: True) == ()


WRITTEN = st.sampled_from(["butterfly", "the butterfly", "Butterfly", "  all  the butterfly ", "butterfly on the left"])


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WRITTEN, min_size=1, max_size=4), st.sampled_from([[], ["the rocket"]]))
def test_phrases_that_read_alike_are_no_rivals(segmenter, sample, alike, others):
    alone = segmenter(sample.image, ["butterfly", *others]).segments[0]
    assert alone.mask.any()
    for segment, phrase in zip(segmenter(sample.image, [*alike, *others]).segments, alike, strict=False):
        assert segment.phrase == phrase
        np.testing.assert_array_equal(segment.probability, alone.probability)


def test_g4seg_refines_what_was_found(segmenter, sample):
    found = segmenter(sample.image, ["the butterfly", "the rocket"])
    with Refiner.from_bundle(demo_bundle(), backend="onnxruntime", threads=1) as refiner:
        refined = refine_segments(refiner, sample.image, found)
    butterfly, rocket = refined.segments
    assert butterfly.refined is not None and rocket.refined is None


def test_wrong_phrases_and_settings_are_named(segmenter, sample):
    with pytest.raises(PromptError, match="one phrase or more in a list"):
        segmenter(sample.image, [])
    with pytest.raises(PromptError, match="phrase '  '"):
        segmenter(sample.image, ["fox", "  "])
    with pytest.raises(PromptError, match="too long"):
        segmenter(sample.image, ["zebra " * 80])
    with pytest.raises(SettingsError, match="seed"):
        segmenter(sample.image, ["fox"], seed=-1)
    with pytest.raises(SettingsError, match="sharpness"):
        segmenter(sample.image, ["fox"], settings={"sharpness": 0.0})
    with pytest.raises(SettingsError, match="'noises' is a setting of G4Seg"):
        segmenter(sample.image, ["fox"], settings={"noises": 3})
    with pytest.raises(SettingsError):
        segmenter(sample.image, ["fox"], settings={"text_timesteps": [1000]})
    with pytest.raises(ImageError):
        segmenter("missing.png", ["fox"])


def test_a_bundle_of_before_says_how_to_export_again(tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(demo_bundle(), folder)
    manifest = json.loads((folder / "segrefine.json").read_text())
    for table in ("graphs", "components"):
        del manifest[table]["unet_attention"]
    del manifest["files"]["unet/attention.onnx"]
    (folder / "segrefine.json").write_text(json.dumps(manifest))
    (folder / "unet" / "attention.onnx").unlink()
    assert Bundle.open(folder).manifest.graphs
    with pytest.raises(BundleError, match="without the maps of attention") as caught:
        ZeroShotSegmenter.from_bundle(folder)
    assert "segrefine export MODEL BUNDLE" in str(caught.value.hint)
    Refiner.from_bundle(folder, backend="onnxruntime").close()  # it still refines


def test_label_diffusion_is_another_method():
    with pytest.raises(BundleError, match="generates masks"):
        ZeroShotSegmenter.from_bundle(demo_gs_bundle())


def test_a_bundle_may_have_settings_of_its_own(tmp_path):
    bundle = Path(shutil.copytree(demo_bundle(), tmp_path / "bundle"))
    manifest = json.loads((bundle / "segrefine.json").read_text("utf-8"))
    (bundle / "segrefine.json").write_text(json.dumps(manifest | {"zero_shot": {"presence": 0.25}}))
    with ZeroShotSegmenter.from_bundle(bundle, threads=1) as segmenter:
        assert segmenter.settings == ZeroShotSettings(presence=0.25)
        assert segmenter.derive(settings={"threshold": 2.0}).settings == ZeroShotSettings(presence=0.25, threshold=2.0)
    with ZeroShotSegmenter.from_bundle(bundle, threads=1, settings={"presence": 0.5}) as segmenter:
        assert segmenter.settings.presence == 0.5
