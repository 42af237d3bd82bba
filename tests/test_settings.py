import json

import pytest

from segrefine.errors import SettingsError
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


def test_samples_have_a_bound():
    assert GsSettings(samples=256).samples == 256
    with pytest.raises(SettingsError, match="at most 256"):
        GsSettings(samples=257)
