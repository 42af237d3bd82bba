"""The soak's own checks: they see what they should see."""

from __future__ import annotations

import pytest

from benchmarks.serve.fuzz import fuzz
from benchmarks.serve.soak import soak


def test_hostile_requests_leave_the_service_healthy() -> None:
    found = fuzz(320, seed=7)
    assert found["unexpected"] == found["hangs"] == 0 and not found["crashed"]
    assert found["healthy_after"] and found["idle_after"] and found["logged_failures"] == {}


@pytest.mark.slow
def test_nothing_is_lost_and_a_leak_is_seen() -> None:
    found = soak(40, 240)
    assert found["service"]["outcomes"] == {"answered": 40} and found["service"]["server_errors"] == 0
    assert found["leaking_control"]["memory_growth_mb"] > 100, "as the bar is"
