from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.photo_gs import area_under_curve

COUNTS = st.lists(st.integers(0, 4), min_size=5, max_size=5)


@given(COUNTS, COUNTS)
def test_the_area_is_the_chance_that_a_wrong_pixel_has_a_larger_spread(right, wrong):
    rights, wrongs = (np.repeat(np.arange(5), counts) for counts in (right, wrong))
    pairs = [(a < b) + 0.5 * (a == b) for a in rights for b in wrongs]
    expected = np.mean(pairs) if pairs else 0.0
    assert area_under_curve(np.array(right, float), np.array(wrong, float)) == pytest.approx(expected)
