"""Masks in every notation, compared with the truth by hand; and what a real batch leaves behind."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from segrefine.assets import demo_samples
from segrefine.cli import main
from segrefine.evaluation.comparison import Comparison, Places
from segrefine.evaluation.scores import compare, summarise
from segrefine.runtime.files.output import save_label_map
from segrefine.runtime.files.rle import encode_rle


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def evaluate(*words: object) -> dict:
    done = run("eval", *words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def failure(*words: object) -> str:
    done = run("eval", *words)
    assert done.exit_code == 1 and "unexpected" not in done.stderr, done.output
    assert done.stderr.strip().splitlines()[-1].startswith("hint: ")
    return done.stderr


def columns(first: int, last: int) -> np.ndarray:
    mask = np.zeros((10, 10), bool)
    mask[:, first:last] = True
    return mask


def label_map(folder: Path, name: str, *fields: tuple[int, int, int]) -> None:
    indices = np.zeros((10, 10), np.uint8)
    for index, first, last in fields:
        indices[:, first:last] = index
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    save_label_map(folder / name, indices)


@pytest.fixture
def label_maps(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Predicted, true and coarse VOC label maps of one image; the truth has two columns that do not count."""
    predicted, truth, coarse = (tmp_path / name for name in ("predicted", "truth", "coarse"))
    label_map(truth, "a/b.png", (3, 0, 4), (5, 4, 6), (255, 8, 10))
    label_map(predicted / "masks", "a/b.png", (3, 0, 4), (5, 4, 7))
    label_map(coarse / "masks", "a/b.png", (3, 0, 2), (5, 4, 6), (7, 8, 10))
    return predicted, truth, coarse


def test_label_maps_before_and_after(label_maps):
    predicted, truth, coarse = label_maps
    values = evaluate(predicted, truth, "--coarse", coarse)
    assert values["images"] == 1 and values["count"] == 2  # the car of the coarse map lies where nothing counts
    assert values["iou_of_classes"] == {"background": 1 / 2, "bird": 1.0, "bottle": pytest.approx(2 / 3)}
    assert values["before"]["iou_of_classes"] == {"background": 1 / 2, "bird": 1 / 2, "bottle": 1.0}
    assert values["miou"] == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    assert values["iou"] == pytest.approx((1 + 2 / 3) / 2) and values["before"]["iou"] == pytest.approx(3 / 4)
    assert (values["made_worse"], values["made_much_worse"], values["made_better"]) == (1 / 2, 1 / 2, 1 / 2)
    assert {each["label"]: each["iou_before"] for each in values["masks"]} == {"bird": 1 / 2, "bottle": 1.0}


def test_shown_before_and_after(label_maps):
    predicted, truth, coarse = label_maps
    shown = run("eval", predicted, truth, "--coarse", coarse).stdout
    assert "before  after  change" in shown and "made worse  50.0%" in shown
    assert [line.split() for line in shown.splitlines() if "bottle" in line] == [
        ["bottle", "1", "1.000", "0.667", "-0.333"]
    ]


def test_names_of_indices(label_maps):
    predicted, truth, _ = label_maps
    classes = {"0": "nothing", "3": "fox", "5": "tree"}
    (truth / "classes.json").write_text(json.dumps(classes))
    assert set(evaluate(predicted, truth)["iou_of_classes"]) == {"nothing", "fox", "tree"}


def test_class_folders(tmp_path):
    for place, widths in (("predicted/masks", {"fox": 4, "tree": 2}), ("truth", {"fox": 5, "car": 3})):
        for label, width in widths.items():
            (tmp_path / place / label).mkdir(parents=True)
            np.save(tmp_path / place / label / "one.npy", columns(0, width).astype(np.float32) * 0.7)
    values = evaluate(tmp_path / "predicted", tmp_path / "truth")
    assert values["iou_of_classes"] == {"car": 0.0, "fox": pytest.approx(0.8), "tree": 0.0}
    assert "before" not in values and "made_worse" not in values


def coco(file: Path, *annotations: tuple[int, int, int, np.ndarray], sizes: bool = True) -> Path:
    """A COCO JSON of images 1 and 2; annotations are id, image, category and mask."""
    size = {"height": 10, "width": 10} if sizes else {}
    images = [{"id": number, "file_name": f"{number}.png", **size} for number in (1, 2)]
    drawn = [
        {"id": a, "image_id": image, "category_id": category, "segmentation": encode_rle(mask)}
        for a, image, category, mask in annotations
    ]
    categories = [{"id": 1, "name": "fox"}, {"id": 2, "name": "tree"}]
    file.write_text(json.dumps({"images": images, "annotations": drawn, "categories": categories}))
    return file


def test_coco_by_instance(tmp_path):
    truth = coco(tmp_path / "t.json", (1, 1, 1, columns(0, 4)), (2, 1, 1, columns(5, 10)), (3, 2, 2, columns(0, 2)))
    predicted = coco(tmp_path / "p.json", (3, 2, 2, columns(0, 1)), (2, 1, 1, columns(5, 10)), (1, 1, 1, columns(0, 3)))
    values = evaluate(predicted, truth)
    assert {each["mask"]: each["iou"] for each in values["masks"]} == {"1": 0.75, "2": 1.0, "3": 0.5}
    assert values["iou_of_classes"] == {"fox": pytest.approx(8 / 9), "tree": 0.5}


def test_coco_by_class_where_annotations_are_others(tmp_path):
    truth = coco(tmp_path / "t.json", (1, 1, 1, columns(0, 4)), (2, 1, 1, columns(5, 10)), sizes=False)
    predicted = coco(tmp_path / "p.json", (7, 1, 1, columns(0, 10)), (8, 2, 1, columns(0, 10)))
    done = run("eval", predicted, truth)
    assert done.exit_code == 1 and "does not say how large image 2 is" in done.stderr
    truth = coco(tmp_path / "t.json", (1, 1, 1, columns(0, 4)), (2, 1, 1, columns(5, 10)))
    values = evaluate(predicted, truth)
    assert [(each["name"], each["iou"]) for each in values["masks"]] == [("1", 0.9), ("2", 0.0)]


def test_a_batch_judged(tmp_path):
    """A folder as `segrefine samples` writes it, refined by the real batch, one image of it damaged."""
    assert run("samples", tmp_path / "scenes").exit_code == 0
    for kind in ("images", "masks", "truth"):
        for path in sorted((tmp_path / "scenes" / kind).iterdir())[3:]:
            path.unlink()
        for path in (tmp_path / "scenes" / kind).iterdir():
            Image.open(path).resize((64, 64), 0).save(path)
    broken = sorted((tmp_path / "scenes" / "images").iterdir())[1]
    broken.write_bytes(broken.read_bytes()[:500])
    output = tmp_path / "out"
    assert run("batch", tmp_path / "scenes", output, "--threads", 1, "--workers", 1).exit_code == 1
    sheet = tmp_path / "sheet.png"
    done = run(
        "eval", output, tmp_path / "scenes", "--coarse", tmp_path / "scenes", "--json", "--sheet", sheet, "--cases", 1
    )
    assert done.exit_code == 0 and "1 images failed in the batch" in done.stderr, done.output
    values = json.loads(done.stdout)
    judged = [row for row in csv.DictReader((output / "guard.csv").open()) if row["confidence"]]
    coarse = sum(row["kept_coarse"] == "True" for row in judged)
    partly = sum(0 < float(row["kept_share"]) < 1 for row in judged)
    assert len(judged) == values["images"] == 2 and values["failed"] == 1
    assert (values["kept_coarse"], values["kept_partly"]) == (coarse, partly)
    assert values["seconds_per_image"] > 0
    for each in values["masks"]:
        files = (tmp_path / place / "masks" / f"{each['name']}.png" for place in ("out", "scenes"))
        true = np.asarray(Image.open(demo_at(tmp_path, each["name"]))) > 127
        after, before = (np.asarray(Image.open(file)) > 127 for file in files)
        assert each["iou"] == pytest.approx((after & true).sum() / (after | true).sum())
        assert each["iou_before"] == pytest.approx((before & true).sum() / (before | true).sum())
    assert Image.open(sheet).width > 8 * 192  # the best and the worst beside each other, four pictures each


def demo_at(folder: Path, name: str) -> Path:
    return folder / "scenes" / "truth" / f"{name}.png"


def test_bad_input(label_maps, tmp_path):
    predicted, truth, coarse = label_maps
    file = coco(tmp_path / "t.json")
    assert "one notation" in failure(predicted, file)
    assert "no folder of images" in failure(predicted, truth, "--sheet", tmp_path / "sheet.png")
    (tmp_path / "images").mkdir()
    assert "no image 'a/b'" in failure(predicted, truth, "--sheet", tmp_path / "sheet.png")
    label_map(coarse / "masks", "a/b.png", (77, 0, 2))
    assert "index 77" in failure(predicted, truth, "--coarse", coarse)
    (coarse / "masks/a/b.png").unlink()
    assert "no mask 'a/b'" in failure(predicted, truth, "--coarse", coarse)
    (tmp_path / "t.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (tmp_path / "p.json").write_text(file.read_text())
    assert "no mask in" in failure(tmp_path / "p.json", file)
    assert "with themselves" in failure(file, file)
    assert run("eval", predicted, truth, "--sheet", tmp_path / "sheet.jpg").exit_code == 2


def test_masks_of_another_size(label_maps):
    predicted, truth, _ = label_maps
    save_label_map(predicted / "masks/a/b.png", np.zeros((4, 3), np.uint8))
    assert "a/b: the predicted and the true mask are 3×4 and 10×10 pixels" in failure(predicted, truth)


def test_nothing_but_background(label_maps):
    predicted, truth, _ = label_maps
    for file in (predicted / "masks/a/b.png", truth / "a/b.png"):
        save_label_map(file, np.zeros((10, 10), np.uint8))
    values = evaluate(predicted, truth)
    assert values["count"] == 0 and values["iou"] is None and values["miou"] == 1.0
    comparison = Comparison(Places(predicted=predicted, truth=truth))
    assert summarise(list(compare("a/b", *comparison.read("a/b"))))["iou_of_classes"] == {"background": 1.0}


def test_an_annotation_of_a_category_that_is_not_listed_is_of_its_image_alone(tmp_path):
    truth = coco(tmp_path / "t.json", (1, 1, 9, columns(0, 4)), (2, 2, 1, columns(0, 2)))
    predicted = coco(tmp_path / "p.json", (1, 1, 1, columns(0, 4)), (2, 2, 1, columns(0, 1)))
    done = run("eval", predicted, truth, "--json")
    values = json.loads(done.stdout)
    assert done.exit_code == 1 and "1 is left out: annotation 1: category 9 is not listed" in done.stderr
    assert [(each["name"], each["iou"]) for each in values["masks"]] == [("2", 0.5)]


def test_a_coco_batch_with_a_damaged_image_judged(tmp_path):
    """The image that failed is in the output neither as one without masks nor with its coarse ones."""
    (tmp_path / "images").mkdir()
    masks = []
    for number, name in enumerate(("03-cactus-shift", "02-car-erode"), 1):
        image, mask = (Image.open(demo_samples() / kind / f"{name}.png") for kind in ("images", "masks"))
        image.resize((64, 64), 0).save(tmp_path / f"images/{number}.png")
        masks.append((number, number, 1, np.asarray(mask.resize((64, 64), 0)) > 0))
    (tmp_path / "images/2.png").write_bytes(b"x")
    source = coco(tmp_path / "coarse.json", *masks, sizes=False)
    truth = coco(tmp_path / "truth.json", *masks, sizes=False)
    assert run("batch", source, tmp_path / "out", "--threads", 1, "--workers", 1, "--bundle", "demo").exit_code == 1
    written = json.loads((tmp_path / "out/annotations.json").read_text())
    assert [image["id"] for image in written["images"]] == [each["id"] for each in written["annotations"]] == [1]
    assert written["left_out"] == [2]
    done = run("eval", tmp_path / "out", truth, "--coarse", source, "--json")
    values = json.loads(done.stdout)
    assert done.exit_code == 0 and "1 images failed in the batch and are left out, '2' first" in done.stderr
    assert (values["images"], values["failed"], values["count"]) == (1, 1, 1)
    assert values["before"]["iou"] == 1 > values["iou"] > 0
    (tmp_path / "out/annotations.json").rename(tmp_path / "refined.json")  # without its journal it says so itself
    done = run("eval", tmp_path / "refined.json", truth)
    assert done.exit_code == 0 and "1 images failed in the batch and are left out, '2' first" in done.stderr


def test_protocol_judges_before_and_after(label_maps):
    predicted, truth, coarse = label_maps
    values = evaluate(predicted, truth, "--coarse", coarse, "--protocol", "voc")
    judged = values["protocol"]
    assert judged["comparable"] and judged["name"] == "voc" and "ToCo" in judged["source"]
    # background 1/2, bird 1, bottle 2/3; before 1/2, 1/2, 1; the car of the coarse map lies where nothing counts
    assert judged["after"]["miou"] == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    assert judged["before"]["iou_of_classes"] == {"background": 1 / 2, "bird": 1 / 2, "bottle": 1.0}
    shown = run("eval", predicted, truth, "--coarse", coarse, "--protocol", "voc").stdout
    assert shown.splitlines()[0].split() == ["protocol", "voc", "before", "after", "change"]
    assert "boundary IoU" not in shown and "github.com/rulixiang/ToCo" in shown


def test_figures_without_a_protocol_say_that_they_are_not_comparable(label_maps):
    predicted, truth, _ = label_maps
    assert evaluate(predicted, truth)["protocol"] == {"name": "full", "source": None, "comparable": False}
    assert "protocol    full: not comparable with published tables" in run("eval", predicted, truth).stdout


def test_protocol_for_other_data_is_refused(label_maps):
    predicted, truth, _ = label_maps
    said = failure(predicted, truth, "--protocol", "png-bcv")
    assert "--protocol png-bcv is for phrases with one mask each, and the true masks are label maps" in said
    assert "there is no protocol 'pascal'" in failure(predicted, truth, "--protocol", "pascal")
