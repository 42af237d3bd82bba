"""Whole benchmarks on small data in the real layouts: their figures, their files, a kill, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from benchmarks.photographs import _methods, read_photographs
from segrefine.assets import demo_samples, photo_bundle
from segrefine.cli import main
from segrefine.datasets.class_lists import CLASS_LISTS
from segrefine.evaluation.bench.baselines import dense_crf
from segrefine.evaluation.bench.benchmarks import BENCHMARKS
from segrefine.evaluation.protocols.table import PROTOCOLS
from segrefine.runtime.pipeline import Refiner
from tests.datasets.benchmark_sets import (
    narrative,
    ref,
    write_big,
    write_context,
    write_davis,
    write_expressions,
    write_narratives,
    write_voc,
)
from tests.datasets.trial import CAR, FOX, save

SCENES = {"02-car-erode": 7, "06-boat-chunks": 4, "11-banana-spill": 20}
"""Shipped scenes by name, with a class of VOC for each."""
NAMES = ["background", *CLASS_LISTS["voc"].names.values()]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def bench(name: str, data: Path, output: Path, *words: object, code: int = 0) -> dict:
    done = run("bench", name, data, "-o", output, "--workers", "1", "--threads", "1", "--json", *words)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def failure(*words: object) -> str:
    done = run("bench", *words)
    assert done.exit_code == 1 and "unexpected" not in done.stderr, done.output
    return done.stderr


def indices_of(mask: Path, index: int) -> np.ndarray:
    return np.where(np.asarray(Image.open(mask).convert("L")) > 127, index, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shipped scenes in VOC's layout, and once more as `benchmarks.photographs` reads them."""
    root, samples = tmp_path_factory.mktemp("voc"), demo_samples()
    for name, index in SCENES.items():
        picture = next(iter((samples / "images").glob(f"{name}.*")))
        image = np.asarray(Image.open(picture).convert("RGB"))
        truth = indices_of(samples / "truth" / f"{name}.png", index)
        truth[0, :3] = 255
        save(root / "JPEGImages" / f"{name}.png", image)
        save(root / "SegmentationClass" / f"{name}.png", truth)
        save(root / "coarse" / f"{name}.png", indices_of(samples / "masks" / f"{name}.png", index))
    pictures = root / "JPEGImages"
    for file in list(pictures.iterdir()):
        file.rename(file.with_suffix(".jpg"))  # without loss, under the names that the list gives them
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("\n".join(SCENES))
    (root / "classes.json").write_text(json.dumps(NAMES))
    return root


@pytest.fixture(scope="module")
def report(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    output = tmp_path_factory.mktemp("out") / "bench"
    return bench("voc", voc, output, "--coarse", voc / "coarse", "--alone"), output


def test_figures_are_those_of_the_benchmark_of_photographs(voc, report):
    """The same masks, each alone, by the same rule: figures agree to the last digit."""
    cases = list(read_photographs(voc, None, coarse=True, kinds=3))
    with Refiner.from_bundle(photo_bundle(), threads=1) as refiner:
        methods = _methods(refiner)
        named = {"coarse": "coarse", "edge-step": "edge step alone", "grabcut": "GrabCut", "dense-crf": "dense CRF",
                 "segrefine": "default"}  # fmt: skip
        expected = {
            name: np.mean([case.iou(methods[theirs](case)) for case in cases]) for name, theirs in named.items()
        }
    found = {name: each["masks"] for name, each in report[0]["methods"].items()}
    assert {name: each["count"] for name, each in found.items()} == dict.fromkeys(named, len(cases)) and len(cases) >= 2
    assert {name: each["iou"] for name, each in found.items()} == pytest.approx(expected, abs=1e-12)


def test_report_can_be_cited(report):
    values, output = report
    written = json.loads((output / "bench.json").read_text())
    assert written == {key: value for key, value in values.items() if key != "output"}
    assert written["protocols"] == {"voc": PROTOCOLS["voc"].source} and written["split"] == "val"
    assert set(written["versions"]) >= {"segrefine", "python", "numpy"} and len(written["options"]["bundle"]) == 64
    assert all(len(each) == 64 for each in written["data"]["hashes"].values())
    assert written["settings"]["timesteps"] and written["command"].startswith("segrefine bench voc")
    assert written["peak_memory"] is None or written["peak_memory"] > 50e6
    assert written["lacks"] == [
        "the split val of PASCAL VOC 2012 has 1449 images, and 3 are listed here: these figures are of a part"
    ]
    for method in written["methods"].values():
        assert method["images"] == 3 and method["failed"] == 0 and 0 < method["protocols"]["voc"]["miou"] <= 1
    with Image.open(output / "sheet.png") as sheet:
        assert sheet.size[0] > 300


def test_table_shows_published_figures_of_the_split(report):
    text = (report[1] / "bench.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line[:2] == "| "]
    assert rows[0][:2] == ["method", "mIoU"] and [row[0] for row in rows[2:7]] == [
        "coarse", "edge-step", "grabcut", "dense-crf", "segrefine",
    ]  # fmt: skip
    assert ["ToCo, ViT-B (published)", "69.2"] in [row[:2] for row in rows]
    assert "activation maps" not in "".join(row[0] for row in rows)  # that one is of the training part
    assert "- ToCo, ViT-B: github.com/rulixiang/ToCo, README.md" in text


def test_run_continues_and_refuses_other_settings(voc, report):
    values, output = report
    again = bench("voc", voc, output, "--coarse", voc / "coarse", "--alone", "--resume")
    assert {n: m["protocols"] for n, m in again["methods"].items()} == {
        n: m["protocols"] for n, m in values["methods"].items()
    }
    words = ["voc", voc, "-o", output, "--coarse", voc / "coarse", "--workers", "1"]
    assert "is not empty" in failure(*words, "--alone")
    assert "holds results of other options: alone was on and is the default now" in failure(*words, "--resume")
    said = failure(*words, "--alone", "--resume", "--seed", "5")
    assert "seed was 0 and is 5 now" in said
    assert "guard was on and is off now" in failure(*words, "--alone", "--resume", "--no-guard")


def write_refcoco(root: Path) -> Path:
    return write_expressions(root, [ref(1, 1, 5, "val", (10, "the fox"))])


def write_png(root: Path) -> Path:
    return write_narratives(root, [narrative(1, ("a fox", [1]))])


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("png", write_voc, "is not Panoptic Narrative Grounding: expected phrases"),
        ("voc", write_big, "is not PASCAL VOC 2012: expected label maps"),
        ("davis", write_davis, "DAVIS has true masks alone"),
        ("davis", write_big, "is not DAVIS: expected masks of objects as its archives have them, and it holds BIG"),
        ("big", write_davis, "is not BIG: expected masks of objects as its archives have them, and it holds DAVIS"),
        ("png", write_refcoco, "is not Panoptic Narrative Grounding: expected phrases"),
        (
            "refcoco+",
            write_refcoco,
            "is not RefCOCO+: expected phrases as its archives have them, and it holds RefCOCO",
        ),
        ("grefcoco", write_refcoco, "is not gRefCOCO"),
        ("refcoco", write_png, "is not RefCOCO"),
        ("ade20k", write_voc, "holds PASCAL VOC 2012, which does not have the classes of ade20k"),
        ("voc", write_context, "holds PASCAL Context, which does not have the classes of voc"),
        ("imagenet", write_voc, "there is no benchmark 'imagenet'"),
    ],
)
def test_data_of_another_kind_is_refused(name, write, said, tmp_path):
    root = write(tmp_path / "data")
    assert said in failure(name, root, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_methods_are_refused(voc, tmp_path):
    said = failure("voc", voc, "-o", tmp_path / "out", "--coarse", voc / "coarse", "--compare", "magic")
    assert "there is no method 'magic'" in said and "edge-step, grabcut, dense-crf" in said


def test_images_that_fail_are_told_and_left_out_everywhere(voc, tmp_path):
    split, coarse = tmp_path / "some.txt", tmp_path / "coarse"
    split.write_text("02-car-erode\nmissing\n")
    save(coarse / "02-car-erode.png", np.asarray(Image.open(voc / "coarse/02-car-erode.png")))
    values = bench("voc", voc, tmp_path / "out", "--coarse", coarse, "--split", split, "--compare", "none", code=1)
    assert values["split"] == "some" and "1 of 2 images are missing" in values["lacks"][0]
    assert [each.partition(" in /")[0] for each in values["failures"]] == ["missing: there is no image missing.jpg"]
    assert {name: each["images"] for name, each in values["methods"].items()} == {"coarse": 1, "segrefine": 1}


def test_big_refines_its_own_coarse_masks(tmp_path):
    values = bench("big", write_big(tmp_path / "big"), tmp_path / "out", "--compare", "edge-step")
    assert values["methods"]["coarse"]["masks"]["count"] == 2
    judged = values["methods"]["coarse"]["protocols"]["big"]  # the coarse masks have another object too, far away
    assert judged["boundary_accuracy"] == 1.0 and judged["iou"] == pytest.approx(FOX.sum() / (FOX | CAR).sum())
    assert "| method | IoU | mBA |" in (tmp_path / "out/bench.md").read_text()
    assert [line[0] for line in [["coarse"], ["edge-step"], ["segrefine"]]] == list(values["methods"])


def test_every_benchmark_has_its_protocols_and_sources():
    for spec in BENCHMARKS.values():
        assert all(name in PROTOCOLS for name in spec.protocols)
        assert spec.classes is None or spec.classes in CLASS_LISTS
        assert spec.kind == "objects" or spec.protocols
        for published in spec.published:
            assert published.source.startswith("github.com/") and published.split
            assert all(0 < value < 100 for value in published.figures.values())


def test_dense_crf_keeps_its_samples_apart():
    """The function that both benchmarks call is one and the same."""
    from benchmarks.baselines import BASELINES

    assert BASELINES["dense_crf"] is dense_crf


NARRATIVES = [
    narrative(1 + place % 2, ("There is", ()), ("a fox", [1]), ("and", ()), (f"the car number {place}", [70_000]),
              ("below the sky", [9]), ("and both", [1, 70_000]))
    for place in range(8)
]  # fmt: skip


def start(data: Path, output: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "segrefine.cli", "bench", "png", str(data), "-o", str(output), "--json",
               "--workers", "2", "--threads", "1", *words]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(data: Path, output: Path, *words: str) -> dict:
    done = start(data, output, *words)
    out, err = done.communicate(timeout=250)
    assert done.returncode == 0, err
    return json.loads(out)


@pytest.mark.skipif(sys.platform == "win32", reason="kills a group of processes, as POSIX has it")
def test_narratives_by_two_processes_with_a_kill_between(tmp_path):
    """A run that is killed and continued gives what an undisturbed one gives, byte for byte."""
    data = write_narratives(tmp_path / "png", NARRATIVES)
    whole = finish(data, tmp_path / "whole")
    broken = tmp_path / "broken"
    process = start(data, broken)
    deadline = time.monotonic() + 120
    parts = broken / "segrefine/parts"
    while len(list(parts.glob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = len(list(parts.glob("*.json")))
    assert left >= 2 and not (broken / "bench.json").exists()
    resumed = finish(data, broken, "--resume")
    assert (broken / "segrefine/predictions.json").read_bytes() == (
        tmp_path / "whole/segrefine/predictions.json"
    ).read_bytes()
    for key in ("methods", "settings", "protocols", "lacks"):
        if key == "methods":
            assert resumed[key]["segrefine"]["protocols"] == whole[key]["segrefine"]["protocols"]
            assert resumed[key]["segrefine"]["masks"] == whole[key]["segrefine"]["masks"]
        else:
            assert resumed[key] == whole[key]
    groups = whole["methods"]["segrefine"]["protocols"]["png-ppmn"]["phrases"]
    assert groups == {"overall": 32, "singulars": 24, "plurals": 8, "things": 24, "stuff": 8}
    assert whole["masks_from"] == "found by the model" and whole["split"] == "val2017"
    assert "PPMN (published)" in (broken / "bench.md").read_text()


def test_check_says_what_is_there_and_what_is_missing(voc, tmp_path):
    done = run("bench", "voc", voc, "--check", "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["images"] == 3  # 3 of 1449
    assert "has 1449 images, and 3 are listed here" in done.stderr
    whole = run("bench", "png", write_narratives(tmp_path / "png", NARRATIVES), "--check")
    assert whole.exit_code == 0 and "8 images, 8 with true masks, 32 phrases" in whole.stdout
    assert "DAVIS: 2 images, 2 with true masks" in run("bench", "davis", write_davis(tmp_path / "d"), "--check").stdout


def test_check_looks_at_true_and_coarse_masks(voc, tmp_path):
    coarse = tmp_path / "coarse"
    save(coarse / "02-car-erode.png", np.asarray(Image.open(voc / "coarse/02-car-erode.png")))
    done = run("bench", "voc", voc, "--check", "--coarse", coarse)
    assert done.exit_code == 1 and f"2 of 3 coarse masks are missing in {coarse}: 06-boat-chunks" in done.stderr
    big = write_big(tmp_path / "big")
    (big / "0001_seg.png").unlink()
    (big / "2007_000033_aeroplane_gt.png").unlink()
    said = run("bench", "big", big, "--check").stderr
    assert "1 of 2 masks are missing" in said and "big: 0001" in said and "big: 2007_000033_aeroplane" in said


def test_what_the_official_code_leaves_out_is_no_fault(tmp_path):
    told = narrative(1, ("a fox", [1]), caption="a fox and more")
    data = write_narratives(tmp_path / "png", [narrative(2, ("a fox", [1])), told])
    done = run("bench", "png", data, "--check")
    assert done.exit_code == 0
    assert "1 left out as in the official code: utterances differ from the caption" in done.stderr


def test_true_masks_that_cannot_be_read_are_told(tmp_path):
    data = write_narratives(tmp_path / "png", [narrative(1, ("a fox", [1])), narrative(2, ("a car", [70_000]))])
    (data / "annotations/panoptic_segmentation/val2017/000000000001.png").unlink()
    values = bench("png", data, tmp_path / "out", code=1)
    assert [each.partition(" ")[0] for each in values["unread"]] == ["000000000001:"] and not values["failures"]
    assert "Note: the masks of 1 images cannot be compared." in (tmp_path / "out/bench.md").read_text()


def test_a_run_in_which_every_image_fails_says_why(voc, tmp_path):
    (tmp_path / "none").mkdir()
    said = failure("voc", voc, "-o", tmp_path / "out", "--coarse", tmp_path / "none", "--compare", "none")
    assert "all 3 images failed, '02-car-erode' first: there is no mask for 02-car-erode.jpg" in said


def test_a_text_to_image_model_finds_phrases_too(tmp_path):
    """In a batch with --zero-shot: masks of phrases are found, refined, and compared as any predictions."""
    data = write_narratives(tmp_path / "png", [narrative(1, ("a fox", [1]), ("and a car", [70_000]))])
    output = tmp_path / "out"
    done = run("batch", data, output, "--zero-shot", "--workers", "1", "--threads", "1", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads((output / "predictions.json").read_text())["phrases_of"] == "narratives"
    judged = json.loads(run("eval", output, data, "--protocol", "png-bcv", "--json").stdout)["protocol"]
    assert judged["after"]["phrases"]["overall"] == 2 and judged["comparable"]


def test_settings_are_tried_on_a_benchmark_with_coarse_masks_elsewhere(voc, tmp_path):
    words = ["--coarse", voc / "coarse", "--vary", "mixing=1", "--workers", "1", "--threads", "1", "--json"]
    done = run("sweep", voc, voc, tmp_path / "out", *words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"][0]["iou"] > 0.5
