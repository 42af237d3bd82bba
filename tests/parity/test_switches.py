"""Every switch of the method, alone and all together: engines against the PyTorch reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from segrefine.assets import demo_bundle, demo_checkpoint, demo_samples
from segrefine.cli.samples import load_samples
from segrefine.export.comparison import ParityScene
from segrefine.export.parity import compare_loop
from segrefine.presets import PRESETS
from segrefine.reference.checkpoint import Checkpoint, load_checkpoint
from segrefine.runtime.pipeline import Refiner

SAMPLE = load_samples(demo_samples())["02-car-erode"]
SCENES = [ParityScene(image=SAMPLE.image, coarse=SAMPLE.coarse, label=SAMPLE.label)]
PAPER = PRESETS["g4seg"]["paper"]
LEVELS = {"timesteps", "confusion"}  # these two go together
SWITCHES: dict[str, Mapping[str, Any]] = {
    **{name: {name: value} for name, value in PAPER.items() if name not in LEVELS},
    "rounds": {name: PAPER[name] for name in sorted(LEVELS)},
    "unmasked": {"comparison": "unmasked"},
    "unmasked loop": {"comparison": "unmasked", "mode": "loop", "loop_steps": 8},
    "guidance": {"guidance_scale": 3.0},
    "fast": PRESETS["g4seg"]["fast"],
    "paper": PAPER,
    "paper, unmasked": {**PAPER, "comparison": "unmasked"},
}


@pytest.fixture(scope="module")
def refiner() -> Iterator[Refiner]:
    with Refiner.from_bundle(demo_bundle(), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(demo_checkpoint())


@pytest.mark.parametrize("name", SWITCHES)
def test_engines_do_what_the_reference_does(refiner: Refiner, checkpoint: Checkpoint, name: str) -> None:
    settings = refiner.settings.with_changes(SWITCHES[name])
    rows = list(compare_loop(refiner, checkpoint, SCENES, name, settings))
    assert len(rows) > 1 and not [row for row in rows if not row.ok], rows


@pytest.mark.parametrize("name", ["unmasked", "discrepancy_weight", "text_weight", "edges", "position_weight"])
def test_switches_change_the_mask(refiner: Refiner, name: str) -> None:
    scene = SCENES[0]
    given = scene.image, scene.coarse, scene.label
    usual, other = (refiner(*given, guard=False, settings=each).probability for each in ({}, SWITCHES[name]))
    assert np.abs(usual - other).max() > 1e-5
