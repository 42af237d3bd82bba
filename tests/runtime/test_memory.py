import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segrefine.assets import demo_bundle
from segrefine.bundle import Bundle
from segrefine.engines import load_engine
from segrefine.errors import ImageError, SettingsError
from segrefine.runtime.memory import Memory, RememberingEngine
from segrefine.runtime.pipeline import Refiner

SIDE = 48


@pytest.fixture(scope="module")
def refiner():
    with Refiner.from_bundle(demo_bundle(), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def encoder():
    with load_engine(Bundle.open(demo_bundle()), "vae_encoder", "onnxruntime", threads=1) as engine:
        yield engine


class Counted:
    """An engine, and how many samples it was given."""

    def __init__(self, engine):
        self.engine, self.spec, self.samples = engine, engine.spec, 0

    def __call__(self, feeds, *, only=None):
        self.samples += len(next(iter(feeds.values())))
        return self.engine(feeds, only=only)

    def close(self):
        self.engine.close()


def picture(seed=0):
    image = np.full((SIDE, SIDE, 3), (60, 90, 40), np.uint8)
    image[12:36, 10:30] = (200, 60, 30)
    return image + np.random.default_rng(seed).integers(0, 20, image.shape, np.uint8)


def square(first, last):
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[first:last, first:last] = 1
    return mask


def test_a_scene_gives_the_masks_of_the_refiner(refiner):
    image = picture()
    with refiner.open(image) as scene:
        for mask in (square(8, 30), square(14, 34), square(8, 30)):
            for label in ("car", "fox"):
                alone, again = refiner(image, mask, label, seed=2), scene(mask, label, seed=2)
                np.testing.assert_array_equal(again.probability, alone.probability)
                assert again.evidence_worth == alone.evidence_worth
        both = {"car": square(8, 24), "fox": square(26, 40)}
        for one, other in zip(refiner(image, both, guard=False), scene(both, guard=False), strict=True):
            np.testing.assert_allclose(one.probability, other.probability, atol=1e-5)


def test_another_stroke_only_pays_for_what_is_new(refiner):
    counted = {name: Counted(engine) for name, engine in refiner.engines.items()}
    always = {"worth_range": ()}  # so that every pass is asked for
    with refiner.derive(counted, settings=always).open(picture()) as scene:
        scene(square(8, 30), "car")
        first = {name: each.samples for name, each in counted.items()}
        scene(square(10, 30), "car")
        second = {name: each.samples - first[name] for name, each in counted.items()}
        assert second["text_encoder"] == second["vae_encoder"] == 0
        assert 0 < second["unet"] <= 0.6 * first["unet"]
        scene(square(10, 30), "car")
        assert counted["unet"].samples == first["unet"] + second["unet"]
        assert scene.memory.size > 0
    assert scene.memory.size == 0


def test_settings_seeds_and_images_are_told_apart(refiner):
    mask = square(8, 30)
    with refiner.open(picture()) as scene:
        before = scene(mask, "car", guard=False).probability
        for options in ({"seed": 1}, {"settings": {"noises": 1}}, {"settings": {"template": "a {label}"}}):
            changed = scene(mask, "car", guard=False, **options).probability
            np.testing.assert_array_equal(
                changed, refiner(scene.image, mask, "car", guard=False, **options).probability
            )
        np.testing.assert_array_equal(scene(mask, "car", guard=False).probability, before)


def test_a_scene_refuses_what_the_refiner_refuses(refiner):
    with pytest.raises(ImageError, match="expected an image"):
        refiner.open([1, 2])
    with pytest.raises(SettingsError, match="budget: expected 0 or more"):
        refiner.open(picture(), memory=-1)


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=6), st.integers(0, 3))
def test_batches_come_back_as_they_were_asked_for(encoder, batches, rows_kept):
    """Rows may repeat, in a batch and between batches, and the memory may be too small for all of them."""
    pictures = np.random.default_rng(0).uniform(-1, 1, (6, 3, 16, 16)).astype(np.float32)
    wanted = [encoder({"sample": each[None]})["latent_sample"] for each in pictures]
    memory = Memory(rows_kept * wanted[0].nbytes)
    remembering = RememberingEngine(encoder, memory)
    for batch in batches:
        got = remembering({"sample": pictures[batch]})["latent_sample"]
        np.testing.assert_allclose(got, np.concatenate([wanted[number] for number in batch]), atol=1e-6)
        assert memory.size <= memory.budget


def test_what_nobody_uses_is_forgotten(monkeypatch):
    now = 100.0
    monkeypatch.setattr("segrefine.runtime.memory.time.monotonic", lambda: now)
    memory = Memory(100, lifetime=10)
    memory.keep({b"old": {"a": np.zeros(10, np.uint8)}, b"used": {"a": np.zeros(10, np.uint8)}})
    now = 108.0
    assert memory.find([b"used"])
    now = 111.0
    assert not memory.find([b"old"])
    assert memory.find([b"used"])
    assert memory.size == 10


def test_the_least_used_goes_first():
    memory = Memory(20)
    memory.keep({b"a": {"x": np.zeros(10, np.uint8)}, b"b": {"x": np.zeros(10, np.uint8)}})
    memory.find([b"a"])
    memory.keep({b"c": {"x": np.zeros(10, np.uint8)}, b"huge": {"x": np.zeros(21, np.uint8)}})
    assert memory.find([b"a", b"b", b"c", b"huge"]).keys() == {b"a", b"c"}
