"""The search finds what scores best, never ends below its start, and asks the model nothing twice."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segrefine.assets import demo_bundle, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.engines import Closing
from segrefine.runtime.pipeline import Refiner
from segrefine.settings import G4SegSettings
from segrefine.tuning.evaluations import EVALUATIONS, Evaluation, Evaluations, Figures, identify
from segrefine.tuning.search import GRID, LEAST_GAIN, count_trials, remember, search_settings, vary
from tests.examples import examples

BASE = G4SegSettings(text_weight=12.0, prior_weight=0.05)


def test_the_best_value_of_each_setting_is_found() -> None:
    tried = []

    def score(settings: G4SegSettings) -> float:
        tried.append(settings)
        return -abs(settings.text_weight - 4) - abs(settings.prior_weight - 0.6) - abs(settings.temperature - 1)

    found = search_settings(BASE, score)
    assert (found.text_weight, found.prior_weight, found.temperature) == (4.0, 0.6, 1.0)
    assert (found.text_threshold, found.worth_range) == (BASE.text_threshold, BASE.worth_range)
    assert len(tried) <= count_trials(BASE)


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(0, 10**6))
def test_no_search_ends_below_its_start(seed: int) -> None:
    scores: dict[str, float] = {}
    rng = np.random.default_rng(seed)

    def score(settings: G4SegSettings) -> float:
        return scores.setdefault(json.dumps(settings.to_dict()), float(rng.uniform()))

    found = search_settings(BASE, score)
    assert score(found) >= score(BASE)
    assert found == BASE or score(found) > score(BASE) + LEAST_GAIN


def test_settings_without_effect_are_not_tried() -> None:
    silent = BASE.with_changes({"text_timesteps": [], "text_weight": 0.0})
    assert [name for name in GRID if list(vary(silent, name, GRID[name]))] == ["prior_weight", "temperature"]
    unmeasured = BASE.with_changes({"worth_range": []})
    assert not list(vary(unmeasured, "worth_range", GRID["worth_range"]))
    assert BASE not in [each for name in GRID for each in vary(BASE, name, GRID[name])]


def test_other_settings_ask_the_diffusion_model_nothing_new() -> None:
    scene = load_samples(demo_samples())["03-cactus-shift"]
    fast = G4SegSettings.preset("fast")
    calls: list[str] = []
    with Refiner.from_bundle(demo_bundle(), threads=1, settings=fast) as refiner:
        counting = {name: _Counting(engine, name, calls) for name, engine in refiner.engines.items()}
        trying = remember(refiner.derive(counting, settings=fast))
        counts = []
        for settings in (fast, fast.with_changes({"text_weight": 1.0, "prior_weight": 1.0, "temperature": 4.0})):
            plain = refiner(scene.image, scene.coarse, scene.label, settings=settings, guard=False)
            again = trying(scene.image, scene.coarse, scene.label, settings=settings, guard=False)
            assert (again.mask == plain.mask).all() and again.evidence_worth == plain.evidence_worth
            counts.append(len(calls))
        assert counts[0] == counts[1] > 0


class _Counting(Closing):
    def __init__(self, engine, name, calls) -> None:
        self._engine, self._name, self._calls = engine, name, calls

    @property
    def spec(self):
        return self._engine.spec

    def __call__(self, feeds, *, only=None):
        if self._name != "alignment":
            self._calls.append(self._name)
        return self._engine(feeds, only=only)

    def close(self):
        self._engine.close()


def evaluation(image: str, coarse: tuple[float, ...], refined: tuple[float, ...]) -> Evaluation:
    return Evaluation(what="a", image=image, coarse=coarse, refined=refined, worth=(1.0,) * len(coarse), seconds=2.0)


def test_what_was_evaluated_is_known_again_and_a_line_that_was_cut_is_not(tmp_path) -> None:
    first = Evaluations(tmp_path)
    first.add(evaluation("é", (0.5,), (0.75,)))
    first.add(evaluation("b", (0.5, 1.0), (0.5, 0.9)))
    file = tmp_path / EVALUATIONS
    file.write_text(file.read_text()[:-20])
    second = Evaluations(tmp_path)
    assert len(second) == 1 and second.get("a", "é") == first.get("a", "é") and second.get("a", "b") is None
    second.add(evaluation("b", (0.5, 1.0), (0.5, 0.9)))
    assert len(Evaluations(tmp_path)) == 2


def test_figures_are_means_over_masks() -> None:
    figures = Figures.of([evaluation("a", (0.5,), (0.75,)), evaluation("b", (0.5, 1.0), (0.49, 0.9))])
    assert (figures.images, figures.masks, figures.seconds) == (2, 3, 2.0)
    assert figures.coarse == pytest.approx(2 / 3) and figures.iou == pytest.approx(2.14 / 3)
    assert figures.made_worse == pytest.approx(1 / 3)


def test_other_settings_have_another_name() -> None:
    names = {identify("a", BASE.to_dict()), identify("b", BASE.to_dict()), identify("a", G4SegSettings().to_dict())}
    assert len(names) == 3 and identify("a", BASE.to_dict()) in names
