"""The protocols against the figures that the official functions gave on the same masks; see `official/*.json`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segrefine.datasets.label_maps import LabelMaps
from segrefine.errors import MaskError, SettingsError
from segrefine.evaluation.matching import Matched
from segrefine.evaluation.protocols.classes import ClassProtocol
from segrefine.evaluation.protocols.judging import Judging, list_figures
from segrefine.evaluation.protocols.narratives import official_average_recall
from segrefine.evaluation.protocols.table import PROTOCOLS, find_protocol
from tests.evaluation.generated import COUNT, LARGE, SIZES, label_maps, mask_pairs

TOLERANCE = 1e-5
PAIRS = list(mask_pairs())


@cache
def official(name: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "official" / f"{name}.json").read_text())


def groups_of(place: int) -> tuple[str, str]:
    return ("singulars" if place % 3 else "plurals", "things" if place % 2 else "stuff")


@cache
def judged(name: str) -> tuple[list[Any], dict[str, Any]]:
    protocol = PROTOCOLS[name]
    phrases = []
    for place, (predicted, truth) in enumerate(PAIRS):
        sides = [Matched(size=truth.shape, masks={"p": mask}) for mask in (truth, predicted)]
        sides[0] = Matched(size=truth.shape, masks={"p": truth}, groups={"p": groups_of(place)})
        phrases.append(protocol.judge(*sides))
    return [each[0] for each in phrases], protocol.summarise(phrases)


def test_masks_are_of_all_sizes_with_perfect_and_empty_ones():
    assert COUNT >= 300 and {truth.shape for _, truth in PAIRS} == {*SIZES, *LARGE}
    shares = np.array([truth.mean() for _, truth in PAIRS])
    areas = np.array([truth.sum() for _, truth in PAIRS])
    assert (areas == 0).sum() >= 5 and ((areas > 0) & (areas < 10)).sum() > 20 and (shares > 0.9).any()
    assert sum(np.array_equal(*pair) for pair in PAIRS) > 20
    assert sum(not predicted.any() and truth.any() for predicted, truth in PAIRS) > 5
    assert any(not predicted.any() and not truth.any() for predicted, truth in PAIRS)


@pytest.mark.parametrize(("name", "file"), [("png-bcv", "png_bcv"), ("png-ppmn", "png_ppmn"), ("refcoco", "refcoco")])
def test_iou_of_every_mask_is_the_official_one(name, file):
    found = [each.iou for each in judged(name)[0]]
    expected = [np.nan if each is None else each for each in official(file)["ious"]]
    if name == "refcoco":  # there, two empty masks count as 0
        found = np.nan_to_num(found)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "file"), [("png-bcv", "png_bcv"), ("png-ppmn", "png_ppmn")])
def test_average_recall_and_accuracy_are_the_official_ones(name, file):
    summary, expected = judged(name)[1], official(file)
    assert summary["average_recall"].keys() == expected["average_recall"].keys()
    for group, value in expected["average_recall"].items():
        assert summary["average_recall"][group] == pytest.approx(value, abs=TOLERANCE), group
    assert summary["accuracy_at_half"] == pytest.approx(expected["accuracy_at_half"], abs=TOLERANCE)
    assert summary["phrases"]["overall"] == COUNT


def test_refcoco_is_the_official_code():
    summary, expected = judged("refcoco")[1], official("refcoco")
    for key in ("mean_iou", "overall_iou"):
        assert summary[key] == pytest.approx(expected[key], abs=TOLERANCE)
    assert summary["precision"] == pytest.approx(expected["precision"], abs=TOLERANCE)


def test_grefcoco_is_the_official_code():
    summary, expected = judged("grefcoco")[1], official("grefcoco")
    for key, theirs in (("giou", "gIoU"), ("ciou", "cIoU")):
        assert 100 * summary[key] == pytest.approx(expected[theirs], abs=100 * TOLERANCE)
    assert summary["target_accuracy"] == pytest.approx(expected["T_acc"], abs=TOLERANCE)
    assert summary["no_target_accuracy"] == pytest.approx(expected["N_acc"], abs=TOLERANCE)
    for at, value in summary["precision"].items():
        assert 100 * value == pytest.approx(expected[f"Pr@{at}"], abs=100 * TOLERANCE)


def of_map(indices: np.ndarray, names: dict[int, str], ignored: set[int]) -> Matched:
    present = [index for index in np.unique(indices).tolist() if index in names]
    masks = {names[index]: indices == index for index in present}
    return Matched(
        size=indices.shape, masks=masks, labels={name: name for name in masks}, ignored=np.isin(indices, list(ignored))
    )


@pytest.mark.parametrize(
    ("name", "rows", "first"), [("voc", "usual", 0), ("mmseg", "mmseg", 0), ("voc20", "mmseg_without_background", 1)]
)
def test_mean_iou_is_the_official_one(name, rows, first):
    """The two rules differ in a class that is predicted and never true."""
    protocol = PROTOCOLS.get(name) or ClassProtocol(
        "mmseg", "VOC by mmseg's rule", "voc", with_background=True, absent_count=True, source=""
    )
    assert isinstance(protocol, ClassProtocol)
    names, ignored = dict(protocol.class_list.names), {255} | ({0} if first else set())
    judging = Judging(protocol)
    for predicted, truth in label_maps():
        judging.add("image", [of_map(truth, names, ignored), of_map(predicted, names, set())])
    summary, expected = judging.summarise()["after"], official("label_maps")[rows]
    for key in ("miou", "pixel_accuracy", "mean_accuracy"):
        assert summary[key] == pytest.approx(expected[key], abs=TOLERANCE), key
    assert len(summary["iou_of_classes"]) == sum(value is not None for value in expected["iou"].values())
    for place, label in enumerate(protocol.classes):
        assert summary["iou_of_classes"].get(label) == pytest.approx(expected["iou"][str(place)], abs=TOLERANCE)
    assert summary["absent_classes"] == [protocol.classes[-1]]


def test_label_maps_are_many_masks():
    assert sum(len(np.setdiff1d(np.unique(truth), [0, 255])) for _, truth in label_maps()) >= 300


@given(st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=40))
def test_average_recall_is_the_sum_of_the_official_steps(ious):
    """The definition, step by step, as the official code writes it."""
    if not ious:
        assert official_average_recall(ious) is None
        return
    thresholds = np.arange(0, 1, 0.00001)
    values = np.array(ious)
    reached = np.array([np.count_nonzero(thresholds[:-1] <= value) for value in values])
    widths = np.concatenate([[0], np.cumsum(np.diff(thresholds))])
    assert official_average_recall(ious) == pytest.approx(float(widths[reached].mean()), abs=1e-9)


def test_full_is_no_protocol_and_an_unknown_one_is_refused():
    assert find_protocol("full") is None
    with pytest.raises(SettingsError, match="there is no protocol 'coco'") as refused:
        find_protocol("coco")
    assert "coco-object" in str(refused.value.hint)


def test_protocol_for_other_data_is_refused():
    class Maps(LabelMaps):
        def __init__(self) -> None:
            pass

    with pytest.raises(SettingsError, match="png-bcv is for phrases with one mask each, and the true masks are label"):
        PROTOCOLS["png-bcv"].check(Maps())
    PROTOCOLS["voc"].check(Maps())


def test_classes_that_a_protocol_lacks_and_masks_that_overlap_are_refused():
    square = np.ones((4, 4), bool)
    other = Matched(size=(4, 4), masks={"fox": square}, labels={"fox": "fox"})
    with pytest.raises(MaskError, match="the true masks have the class 'fox', which voc lacks"):
        PROTOCOLS["voc"].judge(other, other)
    both = Matched(size=(4, 4), masks={"cat": square, "dog": square}, labels={"cat": "cat", "dog": "dog"})
    one = Matched(size=(4, 4), masks={"cat": square}, labels={"cat": "cat"})
    with pytest.raises(MaskError, match="the predicted masks of 'dog' and another class overlap"):
        PROTOCOLS["voc"].judge(one, both)


def test_figures_before_and_after():
    cat, half = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    half[:2] = True
    sides = [Matched(size=(4, 4), masks={"cat": mask}, labels={"cat": "cat"}) for mask in (cat, cat, half)]
    judging = Judging(PROTOCOLS["voc"])
    judging.add("image", sides)
    values = judging.summarise()
    rows = {figure.title: (after, before) for figure, after, before in list_figures(judging.protocol, values)}
    assert rows["mIoU"] == (1.0, 0.5) and rows["pixel accuracy"] == (1.0, 0.5)


def test_what_nobody_predicted_is_wrong_and_what_the_truth_ignores_does_not_count():
    truth = Matched(
        size=(4, 4), masks={"cat": np.ones((4, 4), bool)}, labels={"cat": "cat"}, ignored=np.eye(4, dtype=bool)
    )
    protocol = PROTOCOLS["voc20"]
    assert isinstance(protocol, ClassProtocol)
    counts = protocol.judge(truth, Matched(size=(4, 4), masks={}))
    assert counts.sum() == 12 and counts[protocol.classes.index("cat"), -1] == 12
