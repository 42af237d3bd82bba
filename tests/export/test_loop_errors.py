"""The errors of a loop, as parity judges them."""

from __future__ import annotations

import numpy as np
import pytest

from segrefine.bundle import Precision
from segrefine.export.comparison import LoopErrors

MASKS = (np.ones((2, 2), bool), np.ones((2, 2), bool))


def judge(wrong: int, dtype: Precision, value: float = 0.5) -> bool:
    """Whether the probabilities pass with `wrong` of 2,560 pixels far off."""
    expected = np.linspace(0, 1, 2560, dtype=np.float32).reshape(10, 16, 16)
    got = expected.copy()
    got.reshape(-1)[:wrong] += value
    errors = LoopErrors()
    for pair in zip(got, expected, strict=True):
        errors.add_result(pair, MASKS)
    [probability] = [row for row in errors.rows("loop", dtype) if row.step == "probability"]
    return probability.ok


@pytest.mark.parametrize(("wrong", "passes"), [(0, True), (2, True), (3, False), (2560, False)])
def test_one_pixel_of_a_thousand_may_go_either_way_in_half_precision(wrong: int, passes: bool) -> None:
    assert judge(wrong, "fp16") is passes
    assert judge(wrong, "fp32") is (wrong == 0)


def test_a_pixel_without_a_number_never_passes() -> None:
    assert not judge(1, "fp16", np.nan)
