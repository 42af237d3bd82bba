"""Confidence beside outcomes: what the tables say of masks whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.confidence import PARTS, describe


def masks(confidence: float, gains: list[float], threshold: float = 0.9) -> list[dict[str, float]]:
    return [
        {
            "confidence": confidence,
            "threshold": threshold,
            "accepted": float(confidence >= threshold),
            "before": 0.5,
            "gain": gain,
        }
        for gain in gains
    ]


def table(page: str, header: str) -> list[list[str]]:
    """The rows of the table whose first column has this header."""
    lines = page[page.index(f"| {header} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_masks_are_counted_by_their_confidence() -> None:
    found = masks(0.6, [-0.1, 0.1, 0.01, -0.01]) + masks(1.0, [0.2] * 6)
    rows = table(describe({"spoilt": found}), "confidence")
    assert rows == [
        ["0.5 to 0.7", "4", "0.600", "75.0%", "25.0%"],
        ["0.98 to 1", "6", "1.000", "100.0%", "100.0%"],
    ]


def test_a_higher_threshold_makes_fewer_masks_worse_and_gains_less() -> None:
    rng = np.random.default_rng(0)
    found = [each for c in rng.uniform(0.5, 1, 200) for each in masks(c, [float(rng.normal(2 * (c - 0.75), 0.1))])]
    rows = table(describe({"network": found}), "accepted from")
    worse = [float(row[3].rstrip("%")) for row in rows]
    assert worse == sorted(worse, reverse=True) and worse[0] > 10
    assert rows[0][1] == "100.0%" and rows[-1][1:] == ["0.0%", "+0.0000", "0.0%"]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_named(part: str) -> None:
    page = describe({part: masks(0.95, [0.1, -0.1])})
    assert PARTS[part] in page and "Threshold 0.900: 100.0% accepted" in page
    assert "Expected calibration error (ten bins): 0.450" in page
