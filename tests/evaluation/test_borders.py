"""Mean boundary accuracy against the figures of the official function, and its borders against OpenCV's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from segrefine.cli import main
from segrefine.evaluation.matching import Matched
from segrefine.evaluation.protocols.borders import boundary_accuracy, find_border
from segrefine.evaluation.protocols.table import PROTOCOLS
from tests.datasets.benchmark_sets import write_big, write_davis
from tests.datasets.trial import CAR, FOX, save
from tests.evaluation.generated import mask_pairs
from tests.examples import examples

OFFICIAL = json.loads((Path(__file__).parent / "official/big.json").read_text())


def test_accuracy_of_every_mask_is_the_official_one():
    found = [boundary_accuracy(truth, predicted) for predicted, truth in mask_pairs()]
    assert len(found) >= 300 and [each is None for each in found] == [each is None for each in OFFICIAL["accuracies"]]
    np.testing.assert_allclose(
        [each for each in found if each is not None], [each for each in OFFICIAL["accuracies"] if each is not None],
        rtol=0, atol=1e-5,
    )  # fmt: skip


def test_figures_are_the_official_ones():
    protocol = PROTOCOLS["big"]
    judged = [
        protocol.judge(*(Matched(size=truth.shape, masks={"object": mask}) for mask in (truth, predicted)))
        for predicted, truth in mask_pairs()
    ]
    summary = protocol.summarise(judged)
    assert summary["iou"] == pytest.approx(OFFICIAL["iou"], abs=1e-5)
    assert summary["boundary_accuracy"] == pytest.approx(OFFICIAL["mba"], abs=1e-5)
    assert summary["objects"] == 330 and summary["without_border"] == OFFICIAL["accuracies"].count(None) > 0


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.integers(1, 25))
def test_border_is_the_gradient_of_opencv(seed, height, width, radius):
    cv2 = pytest.importorskip("cv2")
    numbers = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    for _ in range(numbers.integers(5)):
        top, left = numbers.integers(height), numbers.integers(width)
        mask[top : top + numbers.integers(1, 30), left : left + numbers.integers(1, 30)] ^= True
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    expected = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, disc) > 0
    np.testing.assert_array_equal(find_border(mask, radius), expected)


def test_eval_of_big_by_its_protocol(tmp_path):
    """An empty prediction counts, and so does one under another class name."""
    root, predicted = write_big(tmp_path / "big"), tmp_path / "predicted"
    save(predicted / "0001.png", np.zeros(FOX.shape, np.uint8))
    save(predicted / "2007_000033_aeroplane.png", np.where(FOX | CAR, 255, 0).astype(np.uint8))
    done = CliRunner().invoke(main, ["eval", str(predicted), str(root), "--protocol", "big", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["protocol"]["after"]
    assert found["iou"] == pytest.approx(FOX.sum() / (FOX.sum() + (FOX | CAR).sum()))
    accuracies = [boundary_accuracy(FOX, mask) for mask in (np.zeros_like(FOX), FOX | CAR)]
    assert found["boundary_accuracy"] == pytest.approx(np.mean(accuracies)) and found["objects"] == 2


def test_big_is_not_the_protocol_of_davis(tmp_path):
    root = write_davis(tmp_path / "DAVIS")
    done = CliRunner().invoke(main, ["eval", str(root / "JPEGImages/480p"), str(root), "--protocol", "big"])
    assert done.exit_code == 1 and "error:" in done.stderr
    save(tmp_path / "predicted/bear/00000.png", FOX.astype(np.uint8))
    save(tmp_path / "predicted/bmx-trees/00000.png", FOX.astype(np.uint8))
    done = CliRunner().invoke(main, ["eval", str(tmp_path / "predicted"), str(root), "--protocol", "big"])
    assert done.exit_code == 1 and "--protocol big is for the objects of BIG" in done.stderr
