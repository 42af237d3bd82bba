"""The rows of the table of switches: one for each value of `paper` that changes the defaults."""

from __future__ import annotations

import pytest

from benchmarks.switches import PAPER, TOGETHER, list_variants
from segrefine.settings import G4SegSettings

SETTINGS = G4SegSettings().to_dict() | {"text_timesteps": [400], "timesteps": [350], "confusion": [1.0]}
VARIANTS = list_variants(SETTINGS)


def test_every_switch_that_changes_something_has_a_row_of_its_own() -> None:
    alone = [each.changes for name, each in VARIANTS.items() if "paper" not in name and each.changes]
    named = {name for changes in alone for name in changes} - {"comparison"}
    assert named == {name for name, value in PAPER.items() if value != SETTINGS[name]}
    assert len(alone) == len({frozenset(changes) for changes in alone})
    assert {frozenset(names) for names in TOGETHER.values()} <= {frozenset(changes) for changes in alone}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_row_has_settings_that_are_allowed(name: str) -> None:
    changed = G4SegSettings().with_changes(VARIANTS[name].changes)
    assert (changed == G4SegSettings()) == (name in {"default", "default, guard"})
