import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segrefine.errors import SettingsError
from segrefine.presets import PRESETS
from segrefine.settings import G4SegSettings, GsSettings


def test_settings_survive_json():
    settings = G4SegSettings(mode="loop", timesteps=(700, 300, 100), confusion=(0.5, 0.4, 0.3))
    assert G4SegSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "two-step"},
        {"timesteps": ()},
        {"timesteps": (500,), "confusion": (0.5, 0.4)},
        {"noises": 0},
        {"mixing": 0.0},
        {"temperature": -1.0},
        {"strenght": 3.0},
        {"timesteps": "x"},
        {"timesteps": 350},
        {"timesteps": (350.5,)},
        {"timesteps": (-1,)},
        {"temperature": "hot"},
        {"bias": float("nan")},
        {"noises": True},
        {"template": 5},
    ],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong)).removesuffix("s")):
        G4SegSettings.from_dict(wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"self_strength": "x"}, "self_strength: expected a float, such as 6.0; got 'x'"),
        ({"noises": 2.5}, "noises: expected a whole number, such as 2; got 2.5"),
        ({"timesteps": 350}, "timesteps: expected a list of whole numbers, such as [350]; got 350"),
        ({"confusion": ["wide"]}, "confusion: expected a list of floats, such as [1.0]; got ['wide']"),
        ({"edges": 1}, "edges: expected true or false, got 1"),
        ({"template": None}, "template: expected a text, such as 'a photo of a {label}'; got None"),
        ({"comparison": "other"}, "comparison: expected one of original, unmasked; got 'other'"),
        ({"steps": 3}, "'steps' is a setting of GS (segment), not of G4Seg (refine)"),
        ({"strenght": 3.0}, "G4Seg (refine) has no setting 'strenght'"),
        ({"text_strengths": []}, "text_strengths and joint_strengths: expected one strength or more each"),
    ],
)
def test_errors_say_what_is_expected(changes, message):
    with pytest.raises(SettingsError) as caught:
        G4SegSettings().with_changes(changes)
    assert message in str(caught.value)
    if "setting" in message:
        assert all(entry.name in caught.value.hint for entry in fields(G4SegSettings))


@pytest.mark.parametrize("kind", [G4SegSettings, GsSettings])
def test_presets_are_changes_that_the_method_takes(kind):
    assert kind.preset("default") == kind()
    for name, changes in PRESETS[kind.method].items():
        settings = kind.preset(name)
        assert all(json.loads(json.dumps(settings.to_dict()))[key] == value for key, value in changes.items())
    with pytest.raises(SettingsError, match="has no preset 'slow'") as caught:
        kind.preset("slow")
    assert caught.value.hint == f"there are: {', '.join(PRESETS[kind.method])}"


def test_fast_takes_six_passes_at_most():
    assert G4SegSettings.preset("fast").count_passes() <= 6 < G4SegSettings().count_passes()


def test_settings_change_as_calls_say():
    own = GsSettings(steps=7)
    assert own.change(None) is own and own.change(GsSettings(samples=2)) == GsSettings(samples=2)
    assert own.change({"samples": 2}) == GsSettings(steps=7, samples=2)
    assert own.change("fast") == GsSettings(steps=1)
    wrongs: list[Any] = [3, G4SegSettings()]
    for wrong in wrongs:
        with pytest.raises(SettingsError, match="expected GsSettings, a dict of changes or the name of a preset"):
            own.change(wrong)


def texts(default):
    """Values of a setting's kind."""
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, int):
        return st.integers(1, 50)
    if isinstance(default, float):
        return st.floats(0.01, 1)
    if isinstance(default, tuple):
        return st.lists(texts(default[0]), max_size=3)
    return st.just(default)


@pytest.mark.parametrize("kind", [G4SegSettings, GsSettings])
@given(data=st.data())
def test_a_value_given_as_text_is_read_as_its_json(kind, data):
    entry = data.draw(st.sampled_from(fields(kind)))
    value = data.draw(texts(entry.default))
    text = value if isinstance(value, str) else json.dumps(value)
    assert kind.read_value(entry.name, text) == value
    if isinstance(value, list):
        assert kind.read_value(entry.name, text.strip("[]")) == value


def test_samples_have_a_bound():
    assert GsSettings(samples=256).samples == 256
    with pytest.raises(SettingsError, match="at most 256"):
        GsSettings(samples=257)
