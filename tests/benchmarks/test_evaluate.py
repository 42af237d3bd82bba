from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from benchmarks.corruptions import CORRUPTIONS
from benchmarks.evaluate import (
    CLASSICAL,
    compare,
    comparison_table,
    evaluate,
    iou,
    keep_coarse,
    make_cases,
    rows_by_kind,
    summarise,
    summary_table,
)
from benchmarks.figures import contact_sheet, pick_cases, plot_kinds

LABELS = ("disc", "plate", "star")


def know_truth(case):
    return case.truth


def give_nothing(case):
    return np.zeros_like(case.truth)


@pytest.fixture
def outcomes(cases):
    methods = {"coarse": keep_coarse, "perfect": know_truth, "nothing": give_nothing}
    return evaluate(cases, methods, progress=False)


def test_cases_of_a_scene_share_one_target_and_each_kind_comes_once(cases, instances):
    for scene in range(3):
        mine = [case for case in cases if case.scene == scene]
        kinds = [case.kind for case in mine]
        assert len({case.target for case in mine}) == 1
        assert kinds == [kind for kind in CORRUPTIONS if kind in kinds] and len(kinds) >= 7
        assert all(case.label == LABELS[case.target - 1] for case in mine)
        assert all(np.array_equal(case.truth, instances == case.target) for case in mine)
    assert len({case.target for case in cases}) > 1


def test_cases_do_not_depend_on_what_else_is_asked(image, instances):
    chunks = [case for case in make_cases(image, instances, LABELS, scene=5) if case.kind == "chunks"]
    alone = make_cases(image, instances, LABELS, scene=5, kinds=["chunks"])
    assert np.array_equal(chunks[0].coarse, alone[0].coarse)
    reseeded = make_cases(image, instances, LABELS, scene=5, kinds=["chunks"], seed=1)
    assert not np.array_equal(alone[0].coarse, reseeded[0].coarse)


def test_namesakes_are_no_semantic_trap(image, instances):
    cases = make_cases(image, instances, ["disc"] * 3, scene=0)
    assert {case.kind for case in cases} == set(CORRUPTIONS) - {"spill", "two"}


def test_scene_without_objects_has_no_cases(image):
    assert make_cases(image, np.zeros((64, 64), np.uint8), LABELS, scene=0) == []


def test_iou_of_known_masks():
    left, middle = np.zeros((2, 1, 10), bool)
    left[0, :6], middle[0, 4:] = True, True
    assert iou(left, middle) == pytest.approx(0.2)
    assert iou(left, left) == 1 and iou(left, ~left) == 0
    assert iou(left & ~left, left & ~left) == 1


def test_outcomes_follow_the_cases(cases, outcomes):
    assert (outcomes["perfect"].iou == 1).all() and (outcomes["nothing"].iou == 0).all()
    assert outcomes["coarse"].iou.tolist() == [iou(case.coarse > 0.5, case.truth) for case in cases]
    assert all((outcome.seconds >= 0).all() and len(outcome.masks) == len(cases) for outcome in outcomes.values())


def test_processes_change_nothing(cases):
    methods = {name: CLASSICAL[name] for name in ("coarse", "grabcut", "guided_filter")}
    one, two = (evaluate(cases, methods, processes=count, progress=False) for count in (1, 2))
    for name in methods:
        assert np.array_equal(one[name].masks, two[name].masks)


@pytest.mark.parametrize("answer", [np.zeros((64, 64)), np.zeros((32, 64), bool)], ids=["float", "size"])
def test_wrong_answer_names_the_method(cases, answer):
    with pytest.raises(ValueError, match="'sloppy'"):
        evaluate(cases, {"sloppy": lambda case: answer}, progress=False)


def test_summary_counts_what_was_made_worse_and_what_was_left(cases, outcomes):
    summaries = summarise(cases, outcomes)
    coarse, perfect, nothing = summaries.values()
    assert (coarse.worse, perfect.worse, nothing.worse) == (0, 0, 1)
    assert (coarse.unchanged, perfect.unchanged) == (1, 0)
    assert perfect.mean.mean == perfect.mean_of_kinds == 1 and perfect.mean.standard_error == 0
    assert coarse.mean.mean == pytest.approx(outcomes["coarse"].iou.mean())
    for kind, rows in rows_by_kind(cases).items():
        assert coarse.kinds[kind] == pytest.approx(np.mean([outcomes["coarse"].iou[row] for row in rows]))
    assert coarse.mean_of_kinds == pytest.approx(np.mean(list(coarse.kinds.values())))


def test_small_losses_do_not_count_as_worse(cases, outcomes):
    slightly = dataclasses.replace(outcomes["coarse"], iou=outcomes["coarse"].iou - 0.019)
    clearly = dataclasses.replace(outcomes["coarse"], iou=outcomes["coarse"].iou - 0.021)
    summaries = summarise(cases, {"slightly": slightly, "clearly": clearly})
    assert (summaries["slightly"].worse, summaries["clearly"].worse) == (0, 1)


def test_comparison_is_paired_and_signed(cases, outcomes):
    differences = compare(cases, outcomes, "coarse")
    assert set(differences) == {"perfect", "nothing"}
    assert differences["perfect"]["all"].mean == pytest.approx(1 - outcomes["coarse"].iou.mean())
    assert differences["nothing"]["all"].mean == pytest.approx(-outcomes["coarse"].iou.mean())
    rows = rows_by_kind(cases)["dilate"]
    assert differences["perfect"]["dilate"].mean == pytest.approx(1 - outcomes["coarse"].iou[rows].mean())
    assert differences["perfect"]["dilate"].count == len(rows) == 3


def test_tables_have_a_row_for_each_method(cases, outcomes):
    table = summary_table(summarise(cases, outcomes)).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in table] == ["method", ":--", "coarse", "perfect", "nothing"]
    assert len({line.count("|") for line in table}) == 1 and "100.0%" in table[-1]
    lines = comparison_table(compare(cases, outcomes, "coarse"), "coarse").splitlines()
    assert len(lines) == 4 and lines[0].startswith("| minus coarse | dilate |") and lines[0].endswith("| all |")


def test_pictures_are_written(cases, outcomes, tmp_path):
    plot_kinds(summarise(cases, outcomes), tmp_path / "kinds.png")
    contact_sheet(cases, outcomes, "perfect", tmp_path / "sheet.png", rows=2)
    for name in ("kinds.png", "sheet.png"):
        picture = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert min(picture.shape[:2]) > 300 and picture.std() > 20


def test_picked_cases_are_best_worst_and_typical_and_come_once():
    gain = np.array([0.1, -0.5, 0.0, 0.9, 0.2, -0.1, 0.05])
    assert pick_cases(gain, 2) == [(3, "best"), (4, "best"), (1, "worst"), (5, "worst"), (0, "typical"), (6, "typical")]
    assert pick_cases(gain[:3], 3) == [(0, "best"), (2, "best"), (1, "best")]
