"""Generating masks on engines, with a tiny model of either codec, whose masks mean nothing but obey the rules."""

from dataclasses import replace

import numpy as np
import pytest

from segrefine.assets import demo_bundle
from segrefine.errors import BundleError, ImageError, NumericalError, PromptError, SettingsError
from segrefine.export.comparison import ParityScene
from segrefine.export.parity import check_parity
from segrefine.runtime import label_denoiser
from segrefine.runtime import segmenter as module
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmentation import guide_edges, read_samples
from segrefine.runtime.segmenter import Segmenter
from segrefine.samplers import SAMPLERS
from segrefine.settings import GsSettings

SETTINGS = GsSettings(steps=2, samples=3)


@pytest.fixture(scope="module")
def segmenter(tiny_label_bundle):
    with Segmenter.from_bundle(tiny_label_bundle, threads=1, settings=SETTINGS) as opened:
        yield opened


def picture(height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_every_phrase_gets_maps_of_the_images_size(segmenter):
    result = segmenter(picture(), ["a fox", "b", "the red car"])
    assert [segment.phrase for segment in result.segments] == ["a fox", "b", "the red car"]
    for segment in result.segments:
        assert segment.probability.shape == segment.uncertainty.shape == segment.mask.shape == (20, 30)
        assert segment.probability.min() >= 0 and segment.probability.max() <= 1
        assert 0 < segment.uncertainty.max() <= 0.5
        assert len(segment.samples) == 3
    assert {"image", "text", "sample", "edges"} == result.seconds.keys()


def test_same_seed_same_masks_and_another_seed_others(segmenter):
    once, again, other = (segmenter(picture(), ["a fox"], seed=seed).segments[0].samples for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 1e-3


def test_a_phrase_does_not_depend_on_the_others(segmenter, monkeypatch):
    alone = segmenter(picture(), ["fox"]).segments[0].samples
    among = segmenter(picture(), ["car", "fox", "tree"]).segments[1].samples
    np.testing.assert_allclose(alone, among, atol=1e-5)
    monkeypatch.setattr(module, "MAX_PIXELS", 1)  # as for hundreds of phrases: one at a time
    monkeypatch.setattr(label_denoiser, "MAX_PIXELS", 1)
    monkeypatch.setattr(module, "TEXT_BATCH", 2)
    apart = segmenter(picture(), ["car", "fox", "tree"]).segments[1].samples
    np.testing.assert_allclose(alone, apart, atol=1e-5)


def test_phrases_matter(segmenter):
    fox, car = segmenter(picture(), ["fox", "car"]).segments
    assert np.abs(fox.samples - car.samples).max() > 1e-3


def test_progress_ends_at_one_and_observers_see_every_step(segmenter):
    shares, steps = [], []
    segmenter(
        picture(), ["fox"], progress=lambda _, share: shares.append(share), observe=lambda *step: steps.append(step)
    )
    assert shares == sorted(shares) and shares[-1] == 1
    assert [timestep for _, timestep, _ in steps] == [999, 499]


def test_label_map_gives_every_pixel_to_its_best_phrase(segmenter):
    result = segmenter(picture(), ["fox", "car"])
    nothing = np.zeros((8, 8), np.float32)
    left, all_over = nothing.copy(), nothing + 0.6
    left[:, :4] = 0.9
    first, second = result.segments
    painted = replace(result, segments=(replace(first, mean=left), replace(second, mean=all_over)))
    labels = painted.label_map()
    assert labels[10, 2] == 1 and labels[10, 27] == 2
    assert (replace(result, segments=(replace(first, mean=nothing),)).label_map() == 0).all()


def test_confidence_is_of_the_mask_alone(segmenter):
    segment = segmenter(picture(), ["fox"]).segments[0]
    some = np.zeros((2, 8, 8), np.float32)
    assert replace(segment, samples=some).confidence == 0
    some[:, 2:4] = 0.8
    assert replace(segment, samples=some, mean=some[0]).confidence == pytest.approx(0.8)


def test_a_mask_that_the_edge_step_emptied_has_no_confidence(segmenter):
    segment = segmenter(picture(), ["fox"]).segments[0]
    sure, nothing = np.ones((2, 8, 8), np.float32), np.zeros((8, 8), np.float32)
    assert replace(segment, samples=sure, mean=nothing).confidence == 0
    assert replace(segment, samples=sure, mean=sure[0], refined=nothing.astype(np.float16)).confidence == 0


def test_the_edge_step_moves_borders_and_leaves_empty_masks(segmenter):
    rows, columns = np.mgrid[:32, :32]
    truth = np.hypot(rows - 16, columns - 14) < 9
    fit = segmenter.fit(np.where(truth[..., None], [200, 60, 60], [50, 70, 190]).astype(np.uint8))
    coarse = (np.hypot(rows - 15, columns - 17) < 10).astype(np.float32)
    samples = np.stack([fit.apply(each)[None] for each in (coarse, 0 * coarse)])
    moved, empty = read_samples(["disc", "nothing"], samples, fit, guide_edges(fit, SETTINGS))
    assert iou(coarse > 0.5, truth) < 0.7 and iou(moved.mask, truth) > 0.9
    np.testing.assert_array_equal(empty.mean, 0)
    np.testing.assert_array_equal(moved.samples, samples[0])
    left = read_samples(["disc", "nothing"], samples, fit, None)
    np.testing.assert_array_equal([segment.mean for segment in left], samples[:, 0])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_and_guidance_differ(tiny_label_bundle, segmenter, sampler):
    with Segmenter.from_bundle(tiny_label_bundle, threads=1, settings=replace(SETTINGS, sampler=sampler)) as plain:
        settings = replace(SETTINGS, sampler=sampler, guidance_scale=3.0, image_guidance_scale=2.0)
        guided = plain.derive(settings=settings)
        a, b = (each(picture(), ["fox"]).segments[0].samples for each in (plain, guided))
    assert np.abs(a - b).max() > 1e-3


def batch_sizes(segmenter, settings, phrases):
    """How many samples each call of the label denoiser gets."""
    engine, sizes = segmenter.engines["label_denoiser"], []

    def counting(feeds):
        sizes.append(len(feeds["sample"]))
        return engine(feeds)

    segmenter.derive({"label_denoiser": counting}, settings=settings)(picture(), phrases)
    return sizes


def test_the_empty_phrase_is_computed_once_while_all_phrases_have_the_same_samples(segmenter):
    sizes = batch_sizes(segmenter, replace(SETTINGS, samples=2, guidance_scale=2.0), ["fox", "car", "tree"])
    assert sizes == [3 * 2 + 2, 3 * 2 + 3 * 2]


def test_what_guidance_predicts_counts_in_the_bound_of_a_batch(segmenter, monkeypatch):
    grid = segmenter.fit(picture()).image[..., 0].size // segmenter.bundle.manifest.vae_scale_factor**2
    monkeypatch.setattr(module, "MAX_PIXELS", 12 * grid)
    monkeypatch.setattr(label_denoiser, "MAX_PIXELS", 12 * grid)
    guided = replace(SETTINGS, samples=2, guidance_scale=3.0, image_guidance_scale=2.0)
    assert max(batch_sizes(segmenter, guided, ["fox", "car", "tree", "apple", "boat"])) == 12


def test_samples_beyond_the_bound_go_in_parts(segmenter, monkeypatch):
    settings = replace(SETTINGS, samples=7)
    grid = segmenter.fit(picture()).image[..., 0].size // segmenter.bundle.manifest.vae_scale_factor**2
    with_settings = segmenter.derive(settings=settings)
    whole = with_settings(picture(), ["fox"]).segments[0].samples
    monkeypatch.setattr(module, "MAX_PIXELS", 3 * grid)
    monkeypatch.setattr(label_denoiser, "MAX_PIXELS", 3 * grid)
    assert set(batch_sizes(segmenter, settings, ["fox"])) == {3, 1}
    np.testing.assert_allclose(with_settings(picture(), ["fox"]).segments[0].samples, whole, atol=1e-4)


def test_guidance_that_overflows_is_named(segmenter):
    settings = replace(SETTINGS, guidance_scale=3e38, image_guidance_scale=1e38)
    with pytest.raises(NumericalError, match=r"guidance: it gave a value that is not finite \(t=") as caught:
        segmenter.derive(settings=settings)(picture(), ["fox"])
    assert segmenter.bundle.manifest.dtype == "fp32" and "--dtype fp32" not in str(caught.value.hint)


@pytest.mark.parametrize("seed", [-1, None, 1.5, "a"])
def test_bad_seeds(segmenter, seed):
    with pytest.raises(SettingsError, match="seed: expected a whole number"):
        segmenter(picture(), ["fox"], seed=seed)


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        ({"fox"}, "one phrase or more"),
        (np.array(["fox"]), "one phrase or more"),
        ([], "one phrase or more"),
        ("fox", "one phrase or more"),
        (["fox", " "], "phrase ' ': .*names something"),
        ([3], "as text"),
        (["x" * 40], "too long"),
        (["<|endoftext|>"], "end token"),
    ],
)
def test_bad_phrases(segmenter, phrases, message):
    with pytest.raises(PromptError, match=message):
        segmenter(picture(), phrases)


def test_the_error_of_a_long_phrase_says_how_long_it_may_be(segmenter):
    with pytest.raises(PromptError, match=r"expected at most \d+ tokens, got \d+") as caught:
        segmenter(picture(), ["word " * 200])
    assert len(str(caught.value)) < 160 and "template" not in caught.value.hint


def test_a_seed_of_numpy_and_no_image_at_all(segmenter):
    first, same = (segmenter(picture(), ["fox"], seed=seed).segments[0].samples for seed in (3, np.int64(3)))
    np.testing.assert_array_equal(first, same)
    assert segmenter.segment_images([]) == ()


def test_bad_images(segmenter):
    for wrong in (picture()[..., :2], picture() - 5.0, None):
        with pytest.raises(ImageError, match="expected an image"):
            segmenter(wrong, ["fox"])


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 64)])
def test_images_of_any_size(segmenter, size):
    assert segmenter(picture(*size), ["fox"]).segments[0].mask.shape == size


def test_each_method_wants_its_own_bundle(tiny_label_bundle):
    with pytest.raises(BundleError, match="refines masks") as refused:
        Segmenter.from_bundle(demo_bundle())
    assert "segrefine refine" in refused.value.hint
    with pytest.raises(BundleError, match="generates masks") as refused:
        Refiner.from_bundle(tiny_label_bundle)
    assert "segrefine segment" in refused.value.hint


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"samples": 0}, {"sampler": "euler"}, {"guidance_scale": "1"}, {"guidance_scale": -3.0}]
)
def test_wrong_settings(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        GsSettings(**wrong)


def test_engines_do_what_the_reference_does(tiny_label_bundle, tiny_label_checkpoint):
    scenes = [ParityScene(image=picture(), coarse=np.zeros((20, 30), np.float32), label="fox")]
    rows = list(check_parity(tiny_label_bundle, tiny_label_checkpoint, scenes))
    assert {"label_denoiser", "ddim", "ddim, guided", "dpm-solver", "lcm"} <= {row.component for row in rows}
    assert not [row for row in rows if not row.ok]


def pictures():
    """Two images of one shape on the grid, but not of one size."""
    return picture(), np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize("guided", [{}, {"guidance_scale": 3.0, "image_guidance_scale": 2.0}])
@pytest.mark.parametrize("most", [10**6, 1])
def test_several_images_at_once_give_what_each_gives_alone(segmenter, monkeypatch, guided, most):
    monkeypatch.setattr(module, "MAX_PIXELS", most)
    segment = segmenter.derive(settings=replace(SETTINGS, **guided))
    asked = [(pictures()[0], ["fox", "the car"]), (pictures()[1], ["tree"]), (pictures()[0], ["apple"])]
    together = segment.segment_images(asked, seed=3)
    for (image, phrases), result in zip(asked, together, strict=True):
        alone = segment(image, phrases, seed=3)
        assert [each.phrase for each in result.segments] == phrases
        for ours, wanted in zip(result.segments, alone.segments, strict=True):
            np.testing.assert_allclose(ours.samples, wanted.samples, atol=1e-4)
            np.testing.assert_allclose(ours.probability, wanted.probability, atol=1e-3)
    first, second = together[0].segments[0], together[1].segments[0]
    assert first.mask.shape == (20, 30) and second.mask.shape == (40, 60)


def test_images_at_once_are_of_one_shape_on_the_grid(segmenter):
    large = segmenter.derive(settings=SETTINGS)
    large.resolution *= 4
    with pytest.raises(ImageError, match="one shape on the model's grid"):
        large.segment_images([(picture(10, 40), ["fox"]), (picture(40, 10), ["fox"])])
