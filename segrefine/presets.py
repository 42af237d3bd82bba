"""Presets: named changes to the settings of a method. `docs/method.md` says where each value comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PAPER = {
    "mode": "one-step",
    "comparison": "original",
    "timesteps": [500, 350, 200],
    "confusion": [1.0, 0.4, 0.3],
    "noises": 1,
    "position_weight": 0.0,
    "text_timesteps": [],
    "text_weight": 0.0,
    "bias": 0.0,
    "discrepancy_weight": 1.0,
    "mixing": 0.5,
    "prior_weight": 0.0,
    "edges": False,
}
"""G4Seg as its abstract has it: several rounds from coarse to fine, and nothing that is ours."""

_FAST = {
    "timesteps": [350],
    "confusion": [1.0],
    "noises": 1,
    "text_timesteps": [400],
    "text_strengths": [0.0],
    "worth_nulls": 1,
}
"""Six passes of the UNet: three for the text and its worth, one to generate, two for features."""

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "g4seg": {"default": {}, "fast": _FAST, "paper": _PAPER},
    "gs": {
        "default": {},
        "fast": {"steps": 1, "samples": 1, "guidance_scale": 1.0, "image_guidance_scale": 1.0},
    },
    "zero-shot": {"default": {}, "fast": {"text_timesteps": [450, 600], "rivals": 3}},
}
"""By method, then by name: values that differ from the bundle's settings, as JSON has them."""
