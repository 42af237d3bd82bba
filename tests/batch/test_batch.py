"""Data sets refined by several processes: all of it, nothing twice, whatever happens on the way."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrefine.assets import demo_bundle
from segrefine.batch.journal import JOURNAL, Entry, Journal, read_journal, summarise, write_manifest
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import load_mask
from segrefine.runtime.files.rle import decode_rle, encode_rle
from segrefine.runtime.pipeline import Refiner
from tests.batch.copies import copies, damaged_bundle
from tests.batch.deadly import deadly
from tests.batch.runs import SETTINGS, await_lines, children, first_child, refine, results, run, start


def test_a_folder_in_and_the_same_out(scenes, tmp_path):
    values = refine(scenes, tmp_path / "out", "--workers", 2)
    assert (values["items"], values["done"], values["failed"], values["resumed"]) == (3, 3, 0, 0)
    name = "02-car-erode"
    image = load_image(scenes / "images" / f"{name}.png")
    with Refiner.from_bundle(demo_bundle(), threads=1) as refiner:
        alone = refiner(image, load_mask(scenes / "masks" / f"{name}.png", image.shape[:2]), "car")
    written = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{name}.png")) > 0
    np.testing.assert_array_equal(written, alone.mask)


def judgements(output: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((output / "guard.csv").open()))


def test_the_guard_is_counted_and_what_it_made_of_every_mask_is_listed(scenes, tmp_path):
    flat = Image.new("RGB", (64, 64), "grey")  # shows nothing that could be trusted
    for path in sorted((scenes / "images").iterdir())[:2]:
        flat.save(path)
    output = tmp_path / "out"
    values = refine(scenes, output, "--workers", 1)
    assert values["kept_coarse"] >= 1 and values["done"] == 3
    pairs = {path.stem: (output / "masks" / path.name, path) for path in (scenes / "masks").iterdir()}
    drawn = {name: [np.asarray(Image.open(file)) > 127 for file in pair] for name, pair in pairs.items()}
    same = {name: np.array_equal(ours, given) for name, (ours, given) in drawn.items()}
    rows = judgements(output)
    columns = ["name", "label", "annotation", "confidence", "confidence_threshold", "kept_share", "kept_coarse"]
    assert list(rows[0]) == columns
    kept_by_threshold = [float(row["confidence"]) < float(row["confidence_threshold"]) for row in rows]
    assert any(kept_by_threshold) and not all(kept_by_threshold)
    assert sorted(row["name"] for row in rows) == sorted(pairs)
    confidences = [float(row["confidence"]) for row in rows]
    assert confidences == sorted(confidences) and 0 <= confidences[0] < confidences[-1] <= 1
    kept = [row["name"] for row in rows if row["kept_coarse"] == "True"]
    assert len(kept) == values["kept_coarse"] and all(same[name] for name in kept)
    assert {row["label"] for row in rows} == set(json.loads((scenes / "labels.json").read_text()).values())
    assert sum(0 < float(row["kept_share"]) < 1 for row in rows) == values["kept_partly"]

    (output / JOURNAL).write_text((output / JOURNAL).read_text().split("\n", 1)[1])  # as if killed before it
    refine(scenes, output, "--resume")
    again = judgements(output)
    assert again[0]["name"] and again[0]["confidence"] == "" and len(again) == 3
    assert [row for row in rows if row["name"] != again[0]["name"]] == again[1:]


def test_coco_in_and_out(scenes, tmp_path):
    images: list[dict] = []
    annotations: list[dict] = []
    for number, path in enumerate(sorted((scenes / "images").iterdir())):
        mask = np.asarray(Image.open(scenes / "masks" / path.name)) > 0
        other = np.zeros_like(mask)
        other[:12, :20] = True
        images.append({"id": number, "file_name": path.name, "height": 64, "width": 64})
        for category, drawn in ((1, mask), (2, other)):
            each = {"id": len(annotations), "image_id": number, "category_id": category}
            annotations.append(each | {"segmentation": encode_rle(drawn)})
    images.append({"id": 77, "file_name": images[0]["file_name"]})  # without any annotation
    annotations.append({"id": 99, "image_id": 1234, "category_id": 1, "segmentation": []})
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "fox"}]
    file = scenes / "coco.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    values = refine(file, tmp_path / "loose", "--workers", 1, "--no-guard", fails=True)
    assert not (tmp_path / "loose/guard.csv").exists()
    written = json.loads((tmp_path / "loose/annotations.json").read_text())
    first, second = (decode_rle(each["segmentation"]) for each in written["annotations"][:2])
    assert first.any() and not (first & second).any()
    refine(file, tmp_path / "out", "--workers", 1, fails=True)
    assert values["done"] == 4 and [each["name"] for each in values["failures"]] == ["unknown image 1234"]
    written = json.loads((tmp_path / "out/annotations.json").read_text())
    assert [each["id"] for each in written["annotations"]] == [0, 1, 2, 3, 4, 5]
    listed = {(row["name"], row["label"], row["annotation"]) for row in judgements(tmp_path / "out")}
    assert listed == {(str(n), *pair) for n in range(3) for pair in (("car", str(2 * n)), ("fox", str(2 * n + 1)))}


def test_two_images_with_one_id_are_refined_once_the_json_is_mended(scenes, tmp_path):
    names = sorted(path.name for path in (scenes / "images").iterdir())[:2]
    masks = [encode_rle(np.asarray(Image.open(scenes / "masks" / name)) > 0) for name in names]
    annotations = [{"id": k, "image_id": k, "category_id": 1, "segmentation": mask} for k, mask in enumerate(masks)]
    images = [{"id": k, "file_name": name} for k, name in enumerate(names)]
    whole = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
    for each in (*images, *annotations):
        each["image_id" if "image_id" in each else "id"] = 0
    file, output = scenes / "coco.json", tmp_path / "out"
    file.write_text(json.dumps(whole))
    values = refine(file, output, "--workers", 1, fails=True)
    assert (values["done"], values["failed"]) == (0, 2)
    images[1]["id"] = annotations[1]["image_id"] = 1
    file.write_text(json.dumps(whole))
    values = refine(file, output, "--workers", 1, "--resume")
    assert (values["done"], values["resumed"]) == (2, 0)
    written = json.loads((output / "annotations.json").read_text())
    assert [each["image_id"] for each in written["annotations"]] == [0, 1] and "left_out" not in written


def test_masks_without_an_image_and_linked_folders_are_told(scenes, tmp_path):
    first, *_ = sorted((scenes / "images").iterdir())
    (tmp_path / "elsewhere").mkdir()
    (scenes / "images/linked").symlink_to(tmp_path / "elsewhere")
    (scenes / "images/photo.xcf").touch()
    first.rename(tmp_path / first.name)
    result = run("batch", scenes, tmp_path / "out", *SETTINGS)
    assert result.exit_code == 0 and "2 of 2 refined" in result.stdout
    assert f"no image has the name of, not refined: 1, such as masks/{first.name}" in result.stderr
    assert "are links, not entered: 1, such as images/linked" in result.stderr
    assert "not taken: 1, .xcf is not a format that is read, such as photo.xcf" in result.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["masks_without_image"] == [f"masks/{first.name}"]
    assert manifest["linked_folders"] == ["images/linked"]
    assert manifest["not_taken"] == {".xcf is not a format that is read": ["photo.xcf"]}


def test_masks_with_nothing_to_refine_are_counted(scenes, tmp_path):
    (scenes / "labels.json").unlink()
    first, second, third = sorted(path.name for path in (scenes / "masks").iterdir())
    for label in ("car", "fox"):
        (scenes / "masks" / label).mkdir()
        for name in (first, second, third):
            Image.new("L", (64, 64), 255 * (name == third)).save(scenes / "masks" / label / name)
    for name in (first, second, third):
        (scenes / "masks" / name).replace(scenes / "masks" / ("car" if name == first else "..") / name)
    result = run("batch", scenes, tmp_path / "out", *SETTINGS)
    assert result.exit_code == 0 and "masks    1 refined, 5 left as they were" in result.stdout
    names = [Path(name).stem for name in (second, third)]
    assert f"stayed as they were: 2, such as {', '.join(names)}" in result.stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (manifest["masks_refined"], manifest["masks_left"]) == (1, 5) and manifest["nothing_to_refine"] == names


def test_one_bad_image_is_told_and_the_rest_goes_on(scenes, tmp_path):
    names = sorted(path.name for path in (scenes / "images").iterdir())
    (scenes / "images" / names[1]).write_bytes((scenes / "images" / names[1]).read_bytes()[:500])
    (scenes / "images" / "no-mask.png").write_bytes((scenes / "images" / names[0]).read_bytes())
    values = refine(scenes, tmp_path / "out", "--workers", 2, fails=True)
    assert values["done"] == 2 and values["failed"] == 2
    failures = {each["name"]: each for each in json.loads((tmp_path / "out/manifest.json").read_text())["failures"]}
    assert set(failures) == {Path(names[1]).stem, "no-mask"}
    assert failures["no-mask"]["error"] == "MaskError" and failures["no-mask"]["hint"]
    assert "damaged" in failures[Path(names[1]).stem]["message"]


def test_what_failed_is_tried_again_and_what_is_done_is_not(scenes, tmp_path):
    name = sorted(path.name for path in (scenes / "images").iterdir())[1]
    whole = (scenes / "images" / name).read_bytes()
    (scenes / "images" / name).write_bytes(whole[:500])
    refine(scenes, tmp_path / "out", fails=True)
    before = results(tmp_path / "out")
    (scenes / "images" / name).write_bytes(whole)
    values = refine(scenes, tmp_path / "out", "--resume")
    assert (values["done"], values["failed"], values["resumed"]) == (3, 0, 2)
    after = results(tmp_path / "out")
    assert before.items() <= after.items() and len(after) == 3


def test_a_folder_that_is_not_empty_needs_resume(scenes, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    result = run("batch", scenes, tmp_path / "out")
    assert result.exit_code == 1 and "is not empty" in result.stderr and "--resume" in result.stderr


def test_names_that_are_not_valid_text_are_noted(tmp_path):
    names = [os.fsdecode(b"caf\xe9"), "line\u2028separator", "\ud800"]
    journal = Journal(tmp_path)
    for name in names:
        journal.add(Entry(name=name, status="failed", error="ImageError", message=name))
    values = summarise(list(Journal(tmp_path).entries.values()), {})
    write_manifest(tmp_path, values)
    assert values["failed"] == 3
    assert list(read_journal(tmp_path)) == names
    assert [each["name"] for each in json.loads((tmp_path / "manifest.json").read_text())["failures"]] == names


def test_a_model_that_does_not_open_is_told_once(scenes, tmp_path):
    damaged = damaged_bundle(tmp_path / "damaged")
    for bundle, message in ((tmp_path / "none", "there is no such folder"), (damaged, "model.onnx: it is missing")):
        result = run("batch", scenes, tmp_path / "out", "--bundle", bundle)
        assert result.exit_code == 1 and result.stderr.count("error: ") == 1 and message in result.stderr


def test_killed_and_resumed(scenes, tmp_path):
    source, output = copies(scenes, 9), tmp_path / "out"
    for lines in (2, 5):
        process = start(source, output, "--workers", "2", "--resume")
        await_lines(output, lines)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    time.sleep(1)  # for the workers to notice
    before = results(output)
    with (output / JOURNAL).open("a") as journal:
        journal.write('{"name": "00')  # cut short
    values = refine(source, output, "--workers", 2, "--resume")
    assert values["done"] == 9 and values["resumed"] == len(before) and values["failed"] == 0
    after = results(output)
    assert before.items() <= after.items() and len(after) == 9
    first, *others = [np.asarray(Image.open(path)) for path in sorted((output / "masks").iterdir())]
    assert all(np.array_equal(first, other) for other in others)
    assert not list(output.rglob("*.partial"))
    names = [json.loads(line)["name"] for line in (output / JOURNAL).read_text().splitlines()]
    assert sorted(names) == sorted(set(names)) and len(names) == 9


def test_a_worker_that_dies_is_replaced_and_its_images_are_done_again(scenes, tmp_path):
    source, output = copies(scenes, 8), tmp_path / "out"
    process = start(source, output, "--workers", "2")
    await_lines(output, 2)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=120)
    values = json.loads(stdout)
    assert (values["done"], values["failed"], process.returncode) == (8, 0, 0), stderr


@pytest.mark.parametrize("victims", [1, None])
def test_of_the_images_that_a_dead_worker_held_only_the_one_that_it_died_of_has_failed(scenes, tmp_path, victims):
    source, output = copies(scenes, 4), tmp_path / "out"
    with deadly(source / "images/001.png", victims=victims) as killed:  # read ahead while 000 is refined
        values = refine(source, output, "--workers", 1, fails=victims is None)
    assert len(killed) == (victims or 2)
    assert [(each["name"], each["error"]) for each in values["failures"]] == [("001", "WorkerDied")] * (not victims)
    names = [json.loads(line)["name"] for line in (output / JOURNAL).read_text().splitlines()]
    assert sorted(names) == ["000", "001", "002", "003"] and len(results(output)) == values["done"]


def test_a_worker_that_dies_before_it_began_is_replaced(scenes, tmp_path):
    process = start(copies(scenes, 4), tmp_path / "out", "--workers", "2")
    os.kill(first_child(process), signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=120)
    values = json.loads(stdout)
    assert (values["done"], values["failed"], process.returncode) == (4, 0, 0), stderr


def test_workers_that_all_die_before_they_began_end_the_run(scenes, tmp_path):
    process = start(scenes, tmp_path / "out", "--workers", "1")
    while (worker := first_child(process)) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1 and "3 workers died before they began, the last: exit code -9" in stderr


def test_workers_end_with_the_run(scenes, tmp_path):
    process = start(copies(scenes, 8), tmp_path / "out", "--workers", "2")
    await_lines(tmp_path / "out", 1)
    workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.05)
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_two_runs_into_one_folder(scenes, tmp_path):
    process = start(copies(scenes, 6), tmp_path / "out", "--workers", "1")
    await_lines(tmp_path / "out", 1)
    result = run("batch", scenes, tmp_path / "out", "--resume")
    assert result.exit_code == 1 and "another run writes" in result.stderr
    process.communicate(timeout=120)
    assert process.returncode == 0
