"""The settings that a request asks for: what exists is taken, the rest is named, and what costs too much refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segrefine.errors import SettingsError
from segrefine.serve.body import Form
from segrefine.serve.inputs import read_inputs
from segrefine.serve.limits import Limits
from segrefine.serve.parameters import MOST_PASSES, Parameters, RefineParameters, SegmentParameters
from segrefine.serve.problem import Problem, problem_of
from segrefine.settings import G4SegSettings, GsSettings, Settings, ZeroShotSettings
from tests.serve.test_api import png

PICTURE = png(np.zeros((8, 8, 3), np.uint8))


def refine(**values: Any) -> RefineParameters:
    return RefineParameters.model_validate({"label": "fox", **values})


def segment(**values: Any) -> SegmentParameters:
    return SegmentParameters.model_validate({"phrases": ["the fox"], **values})


def test_a_preset_then_settings_then_fields() -> None:
    base = G4SegSettings(temperature=3.0)
    assert refine().change(base) == base
    changed = refine(preset="fast", settings={"noises": 2}).change(base)
    assert changed == base.with_preset("fast").with_changes({"noises": 2}) and changed.temperature == 3.0
    asked = segment(settings={"samples": 3, "steps": 2}, samples=4)
    assert asked.change(GsSettings()) == GsSettings(samples=4, steps=2)


def test_a_form_carries_settings_as_json() -> None:
    values = {"label": ["fox"], "settings": ['{"noises": 1}'], "preset": ["fast"]}
    form = Form(values=values, files={"image": [PICTURE], "mask": [PICTURE]}, multipart=True)
    _, parameters = read_inputs(form, RefineParameters, Limits())
    assert parameters.settings == {"noises": 1} and parameters.preset == "fast"
    for wrong in ("{", "[1]", '"x"', "fast"):
        with pytest.raises(Problem, match="settings") as caught:
            read_inputs(Form(**{**vars(form), "values": values | {"settings": [wrong]}}), RefineParameters, Limits())
        assert caught.value.status == 422


@pytest.mark.parametrize(
    ("asked", "base", "message"),
    [
        (refine(preset="slow"), G4SegSettings(), "has no preset 'slow'"),
        (segment(preset="paper"), GsSettings(), "has no preset 'paper'"),
        (refine(settings={"strenght": 1}), G4SegSettings(), "has no setting 'strenght'"),
        (refine(settings={"steps": 1}), G4SegSettings(), "'steps' is a setting of GS (segment)"),
        (refine(settings={"noises": "x"}), G4SegSettings(), "noises: expected a whole number, such as 2; got 'x'"),
        (refine(settings={"noises": 1000}), G4SegSettings(), f"at most {MOST_PASSES} passes of the UNet"),
        (refine(settings={"template": "{label}" * 999}), G4SegSettings(), "at most 4096 bytes of template"),
        (segment(settings={"samples": 17}), GsSettings(), "at most 16 samples"),
        (segment(settings={"steps": 101}), GsSettings(), "at most 100 steps"),
    ],
)
def test_what_cannot_be_is_refused(asked: Parameters, base: Settings, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        asked.change(base)
    assert message in str(caught.value)
    problem = problem_of(caught.value)
    assert (problem.status, problem.code) == (422, "bad_setting") and problem.hint


def test_the_model_itself_may_cost_more() -> None:
    own = GsSettings(samples=32)
    assert segment(settings={"steps": 2}).change(own) == GsSettings(samples=32, steps=2)


def test_many_phrases_or_labels_do_not_occupy_the_service() -> None:
    fine = segment(phrases=["fox"] * 200)
    fine.change(ZeroShotSettings())
    many = segment(phrases=["fox"] * 256)
    cases: list[tuple[Parameters, Settings, str]] = [
        (many, ZeroShotSettings(), "1024 passes of the UNet"),
        (refine(label=["fox"] * 256), G4SegSettings(), "1024 passes of the UNet"),
        (segment(phrases=["fox"] * 200, samples=16, steps=50), GsSettings(), "8192 passes of the label denoiser"),
    ]
    for asked, base, message in cases:
        with pytest.raises(SettingsError, match=message) as caught:
            asked.change(base)
        assert "fewer" in str(caught.value.hint)
    segment(phrases=[], classes="coco-stuff").change(ZeroShotSettings())
    segment(phrases=["fox"] * 256, preset="fast").change(ZeroShotSettings())
    segment(phrases=["fox"] * 256, samples=16).change(GsSettings())


def test_uncertainty_is_the_spread_of_samples() -> None:
    asked = segment(maps=["uncertainty"])
    with pytest.raises(SettingsError, match="which draws none"):
        asked.check_maps(ZeroShotSettings())
    asked.check_maps(GsSettings())
    segment().check_maps(ZeroShotSettings())


HUGE = 10**6
COUNTS = [
    (kind, entry.name)
    for kind in (G4SegSettings, GsSettings, ZeroShotSettings)
    for entry in fields(kind)
    if type(entry.default) is int and not entry.name.endswith("_timestep")
]


@pytest.mark.parametrize(("kind", "name"), COUNTS)
@given(st.integers(HUGE, 10**12))
def test_no_count_occupies_the_service(kind: type[Settings], name: str, value: int) -> None:
    asked = refine if kind is G4SegSettings else segment
    more = {"mode": "loop"} if name == "loop_steps" else {}  # the only mode that has those
    with pytest.raises(SettingsError, match="at most"):
        asked(settings={name: value, **more}).change(kind())


@pytest.mark.parametrize("kind", [G4SegSettings, ZeroShotSettings])
def test_no_list_of_levels_and_no_template_occupies_the_service(kind: type[Settings]) -> None:
    asked = refine if kind is G4SegSettings else segment
    for values in ({"text_timesteps": list(range(500))}, {"template": "{label}" * 999}):
        with pytest.raises(SettingsError, match="at most"):
            asked(settings=values).change(kind())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
NAMES = (
    st.sampled_from([entry.name for kind in (G4SegSettings, GsSettings, ZeroShotSettings) for entry in fields(kind)])
    | st.text()
)


@given(st.dictionaries(NAMES, JSON, max_size=4), st.sampled_from(["default", "fast", "paper", "x", None]))
def test_whatever_is_asked_gives_settings_or_a_problem(values: dict[str, Any], preset: str | None) -> None:
    for asked, base in ((refine, G4SegSettings()), (segment, GsSettings()), (segment, ZeroShotSettings())):
        try:
            changed = asked(settings=values, preset=preset).change(base)
        except SettingsError as error:
            assert problem_of(error).status == 422
        else:
            assert type(base).from_dict(changed.to_dict()) == changed
