"""Tuning writes what is better on images that it was not fitted to, and leaves the bundle as it was otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrefine.bundle import Bundle
from segrefine.errors import BundleError, MaskError, OutputError
from segrefine.runtime.guard import free_guard, read_guard
from segrefine.runtime.pipeline import Refiner
from segrefine.settings import G4SegSettings
from segrefine.tuning import tune as tuning
from segrefine.tuning.bundle_fit import hash_denoiser
from segrefine.tuning.cases import LabelledData
from segrefine.tuning.evaluations import EVALUATIONS, Evaluations, Figures
from segrefine.tuning.report import write_report
from segrefine.tuning.tune import MOST_WORSE, tune
from tests.tuning.labelled import copy_bundle, job_of, write_scenes

SMALL = {"prior_weight": (0.38,)}
SPOILT = {"prior_weight": 3.0, "text_weight": 0.5}


def content(bundle: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(bundle)): file.read_bytes() for file in bundle.rglob("*") if file.suffix and file.is_file()
    }


class TestData:
    def test_images_are_divided_by_seed(self, tmp_path: Path) -> None:
        data = LabelledData(job_of(write_scenes(tmp_path / "d", 12), tmp_path, tmp_path), tmp_path / "d/truth")
        fit, held_out, unread = data.split(0)
        assert (len(fit), len(held_out), unread) == (7, 5, [])
        assert sorted([*fit, *held_out]) == [f"{number:02}" for number in range(12)]
        assert data.split(0)[:2] == (fit, held_out) != data.split(1)[:2]

    def test_a_case_has_masks_and_their_truth(self, tmp_path: Path) -> None:
        data = LabelledData(job_of(write_scenes(tmp_path / "d", 10), tmp_path, tmp_path), tmp_path / "d/truth")
        case = data.read("03")
        truth = np.asarray(Image.open(tmp_path / "d/truth/03.png").convert("L")) > 127
        [(label, mask)] = case.masks
        assert label == json.loads((tmp_path / "d/labels.json").read_text())["03"]
        assert (case.truths[0] == truth).all() and mask.shape == truth.shape and not case.void.any()
        assert case.iou(0, truth) == 1.0 and case.iou(0, ~truth) == 0.0

    @pytest.mark.parametrize("ids", [True, False])
    def test_annotations_are_paired_by_id_or_else_by_label(self, tmp_path: Path, ids: bool) -> None:
        images, truth, coarse = [], [], []
        (tmp_path / "images").mkdir()
        for number in range(10):
            Image.new("RGB", (32, 32), (9 * number, 40, 90)).save(tmp_path / f"images/{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 32, "height": 32})
            for place, left in enumerate((2, 18)):
                entry = {"image_id": number, "category_id": 1, "id": 2 * number + place} if ids else {
                    "image_id": number, "category_id": 1}  # fmt: skip
                truth.append(entry | {"segmentation": [[left, 4, left + 8, 4, left + 8, 20, left, 20]]})
                coarse.append(entry | {"segmentation": [[left, 4, left + 8, 4, left + 8, 12, left, 12]]})
        told = {"images": images, "categories": [{"id": 1, "name": "fox"}]}
        for name, entries in (("coarse", coarse), ("truth", truth)):
            (tmp_path / f"{name}.json").write_text(json.dumps(told | {"annotations": entries}))
        job = replace(job_of(tmp_path / "coarse.json", tmp_path, tmp_path), images=tmp_path / "images")
        case = LabelledData(job, tmp_path / "truth.json").read("4")
        assert len(case.masks) == len(case.truths) == (2 if ids else 1)
        assert all(case.iou(k, mask > 0.5) == pytest.approx(0.5, abs=0.06) for k, (_, mask) in enumerate(case.masks))

    def test_pixels_of_no_class_do_not_count(self, tmp_path: Path) -> None:
        for kind in ("images", "masks", "truth"):
            (tmp_path / kind).mkdir()
        coarse = np.zeros((16, 16), np.uint8)
        coarse[4:12, 4:12] = 1
        truth = coarse.copy()
        truth[:8][truth[:8] == 1] = 255
        for number in range(10):
            Image.new("RGB", (16, 16), (20 * number, 9, 9)).save(tmp_path / f"images/{number}.png")
            for kind, indices in (("masks", coarse), ("truth", truth)):
                Image.fromarray(indices).save(tmp_path / f"{kind}/{number}.png")
        (tmp_path / "classes.json").write_text('["background", "fox"]')
        case = LabelledData(job_of(tmp_path, tmp_path, tmp_path / "o"), tmp_path / "truth").read("0")
        assert case.void.sum() == (truth == 255).sum() > 0
        assert case.iou(0, coarse > 0) == 1.0 and case.iou(0, truth == 1) == 1.0

    @pytest.mark.parametrize("count", [1, 9])
    def test_too_few_images_are_counted(self, tmp_path: Path, count: int) -> None:
        data = LabelledData(job_of(write_scenes(tmp_path / "d", count), tmp_path, tmp_path), tmp_path / "d/truth")
        with pytest.raises(MaskError, match=f"^{count} images with .* needs 10 or more") as caught:
            data.split(0)
        assert "add images" in str(caught.value.hint)

    def test_an_image_that_cannot_be_read_is_left_out_and_named(self, tmp_path: Path) -> None:
        folder = write_scenes(tmp_path / "d", 12)
        (folder / "images/04.png").write_bytes(b"no picture")
        Image.new("L", (8, 8), 255).save(folder / "truth/05.png")
        fit, held_out, unread = LabelledData(job_of(folder, tmp_path, tmp_path), folder / "truth").split(0)
        assert [each.name for each in unread] == ["04", "05"] and len(fit) + len(held_out) == 10
        assert "8×8" in unread[1].message
        (folder / "images/06.png").write_bytes(b"no picture")
        with pytest.raises(MaskError, match="9 images .* 3 cannot be read; 04: "):
            LabelledData(job_of(folder, tmp_path, tmp_path), folder / "truth").split(0)

    def test_there_must_be_a_truth(self, tmp_path: Path) -> None:
        folder = write_scenes(tmp_path / "d", 10)
        with pytest.raises(MaskError, match="compared with themselves"):
            LabelledData(job_of(folder, tmp_path, tmp_path), folder / "masks")
        (tmp_path / "empty").mkdir()
        with pytest.raises(MaskError, match="there is no mask in"):
            LabelledData(job_of(folder, tmp_path, tmp_path), tmp_path / "empty")


def figures(iou: float, made_worse: float) -> Figures:
    return Figures(images=5, masks=5, coarse=0.5, iou=iou, made_worse=made_worse, seconds=1.0)


@pytest.mark.parametrize(
    ("before", "after", "gained"),
    [
        ((0.7, 0.0), (0.71, 0.0), True),
        ((0.7, 0.0), (0.7, 0.0), False),
        ((0.7, 0.2), (0.69, 0.0), False),
        ((0.7, 0.0), (0.8, MOST_WORSE), True),
        ((0.7, 0.0), (0.8, 0.2), False),
        ((0.7, 0.2), (0.8, 0.2), True),
    ],
)
def test_what_is_worse_on_the_held_out_part_is_no_gain(before, after, gained: bool) -> None:
    assert (not tuning._compare(figures(*before), figures(*after))) == gained


def test_labels_that_the_model_does_not_know_leave_the_bundle_as_it_was(tmp_path: Path) -> None:
    bundle = copy_bundle(tmp_path / "b", effect_range=(1e6, 2e6))
    before = content(bundle)
    data = write_scenes(tmp_path / "d", 10, label="qqq")
    job = job_of(data, bundle, tmp_path / "out")
    outcome = tune(job, data / "truth", grid=SMALL)
    assert not outcome.gained and "cannot tell these labels apart" in outcome.reason
    assert content(bundle) == before
    report = write_report(job, data / "truth", outcome)
    assert (report["written"], report["after"]) == (False, None)
    assert "Nothing was gained" in (tmp_path / "out/report.md").read_text()


def test_settings_that_measure_no_worth_are_no_start(tmp_path: Path) -> None:
    bundle, data = copy_bundle(tmp_path / "b", worth_range=()), write_scenes(tmp_path / "d", 10)
    before = content(bundle)
    outcome = tune(job_of(data, bundle, tmp_path / "out"), data / "truth", grid=SMALL)
    assert not outcome.gained and "do not measure" in outcome.reason and content(bundle) == before


@pytest.mark.slow
def test_spoilt_settings_are_mended_and_a_kill_loses_one_image(tmp_path: Path, monkeypatch) -> None:
    data, bundle = write_scenes(tmp_path / "d", 24), copy_bundle(tmp_path / "b", **SPOILT)
    before = content(bundle)
    job, add, added = job_of(data, bundle, tmp_path / "out"), Evaluations.add, []

    def killed(self, evaluation) -> None:
        add(self, evaluation)
        added.append((evaluation.what, evaluation.image))
        if len(added) in (6, 20, 40):
            raise KeyboardInterrupt

    monkeypatch.setattr(Evaluations, "add", killed)
    grid = {"prior_weight": (0.38,), "text_weight": (4.0,)}
    for attempt in range(3):
        with pytest.raises(KeyboardInterrupt):
            tune(job, data / "truth", grid=grid, resume=attempt > 0)
        assert content(bundle) == before
    with pytest.raises(OutputError, match="other options: seed was 0 and is 1"):
        tune(replace(job, seed=1), data / "truth", grid=grid, resume=True)
    with pytest.raises(OutputError, match="not empty"):
        tune(job, data / "truth", grid=grid)
    outcome = tune(job, data / "truth", grid=grid, resume=True)
    assert len(added) == len(set(added)) == len((tmp_path / "out" / EVALUATIONS).read_text().splitlines())
    assert outcome.gained and outcome.after.iou > outcome.before.iou, outcome.reason

    opened = Bundle.open(bundle)
    opened.verify()
    assert G4SegSettings.from_dict(opened.manifest.settings) == outcome.settings != outcome.start
    about = read_guard(opened).about
    assert (about["images"], about["held_out_images"], about["data"]) == (14, 10, "d")
    assert about["denoiser"] == hash_denoiser(opened) and about["after"] == outcome.after.to_dict()
    assert {name for name in content(bundle) if content(bundle)[name] != before.get(name)} == {
        "segrefine.json", "guard.json",
    }  # fmt: skip

    report = write_report(job, data / "truth", outcome)
    assert report["written"] and (tmp_path / "out/before_after.png").is_file()
    assert json.loads((tmp_path / "out/report.json").read_text()) == report
    case = LabelledData(job, data / "truth").read(outcome.held_out[0])
    with Refiner.from_bundle(bundle, threads=1) as refiner:  # what was judged is what every surface does from now on
        [result] = refiner(case.image, case.masks)
    line = next(
        each for text in (tmp_path / "out" / EVALUATIONS).read_text().splitlines()
        if (each := json.loads(text))["what"].startswith("after") and each["image"] == case.name
    )  # fmt: skip
    assert case.iou(0, result.mask) == pytest.approx(line["refined"][0])


@pytest.mark.slow
def test_a_loss_on_the_held_out_part_is_not_written(tmp_path: Path, monkeypatch) -> None:
    data, bundle = write_scenes(tmp_path / "d", 24), copy_bundle(tmp_path / "b")
    before = content(bundle)
    distrusts = replace(free_guard(), threshold=1.0, least_contrast=0.0)  # everything stays coarse
    monkeypatch.setattr(tuning._Tuning, "_choose_guard", lambda self, samples, names: distrusts)
    outcome = tune(job_of(data, bundle, tmp_path / "out"), data / "truth", grid=SMALL)
    assert not outcome.gained and "did not gain" in outcome.reason and outcome.after is not None
    assert content(bundle) == before


def test_a_bundle_of_the_other_method_and_the_shipped_one_are_refused(tmp_path: Path) -> None:
    from segrefine.assets import demo_bundle, demo_gs_bundle

    data = write_scenes(tmp_path / "d", 10)
    with pytest.raises(BundleError, match="generates masks"):
        tune(job_of(data, demo_gs_bundle(), tmp_path / "out"), data / "truth")
    with pytest.raises(BundleError, match="ships with segrefine") as caught:
        tune(job_of(data, demo_bundle(), tmp_path / "out"), data / "truth")
    assert "copy the folder" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_fitted_guard_that_gains_less_than_the_free_one_is_not_taken(tmp_path: Path, monkeypatch) -> None:
    data, bundle = write_scenes(tmp_path / "d", 24), copy_bundle(tmp_path / "b", **SPOILT)
    distrusts = replace(free_guard(), threshold=1.0, least_contrast=0.0)
    monkeypatch.setattr(tuning, "_fit", lambda samples: distrusts)
    outcome = tune(job_of(data, bundle, tmp_path / "out"), data / "truth", grid=SMALL)
    assert replace(outcome.guard, about={}) == replace(free_guard(), about={})
