"""Arguments of a wrong kind: every pipeline names them in the same way."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segrefine.assets import demo_bundle, photo_gs_bundle
from segrefine.engines import EngineOptions
from segrefine.errors import PromptError, SettingsError
from segrefine.runtime.engine_set import EngineSet
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmenter import Segmenter
from segrefine.runtime.zero_shot import ZeroShotSegmenter

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
MASK = np.zeros((32, 48), bool)
MASK[8:24, 10:30] = True
OTHER = st.none() | st.integers() | st.floats() | st.binary(max_size=3) | st.lists(st.text(max_size=3), max_size=2)
several = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def refiner() -> Iterator[Refiner]:
    with Refiner.from_bundle(demo_bundle(), backend="onnxruntime", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module", params=[(Segmenter, photo_gs_bundle), (ZeroShotSegmenter, demo_bundle)])
def segmenter(request: pytest.FixtureRequest) -> Iterator[Any]:
    kind, bundle = request.param
    with kind.from_bundle(bundle(), backend="onnxruntime", threads=1) as opened:
        yield opened


@several
@given(st.lists(st.just("fox"), max_size=2), OTHER)
def test_phrases_that_are_no_texts(segmenter: Any, phrases: list[Any], other: Any) -> None:
    with pytest.raises(PromptError, match="every phrase as text") as caught:
        segmenter(IMAGE, [*phrases, other])
    assert caught.value.hint


WRONG_SEEDS = st.integers(max_value=-1) | st.floats() | st.none() | st.text(max_size=3) | st.lists(st.integers())


@several
@given(WRONG_SEEDS)
def test_seeds_that_are_no_whole_numbers(refiner: Refiner, segmenter: Any, seed: Any) -> None:
    with refiner.open(IMAGE) as scene:
        for call in (
            lambda: segmenter(IMAGE, ["fox"], seed=seed),
            lambda: refiner(IMAGE, MASK, "fox", seed=seed),
            lambda: scene(MASK, "fox", seed=seed),
        ):
            with pytest.raises(SettingsError, match="seed: expected a whole number of 0 or more"):
                call()


def test_a_scene_keeps_the_image_that_it_was_opened_with(refiner: Refiner) -> None:
    drawn_on = IMAGE.copy()
    with refiner.open(drawn_on) as scene:
        first = scene(MASK, "fox")
        drawn_on[:] = 0
        np.testing.assert_array_equal(scene(MASK, "fox").probability, first.probability)
        np.testing.assert_array_equal(scene.image, IMAGE)


@pytest.mark.parametrize("value", ["no", 2, "", []])
def test_low_memory_is_a_bool(value: Any) -> None:
    with pytest.raises(SettingsError, match="low_memory: expected true, false or none"):
        EngineOptions(low_memory=value)


def test_a_bundle_of_the_hub_opens_with_the_options_of_a_folder() -> None:
    local, hub = (inspect.signature(each).parameters for each in (EngineSet.from_bundle, EngineSet.from_pretrained))
    assert set(local) - {"path"} == set(hub) - {"bundle", "revision"}
