"""Lists of COCO results, and the layouts in which programs export COCO."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from segrefine.cli import main
from segrefine.datasets.notation import ReadingOptions
from segrefine.datasets.opening import open_data_set
from segrefine.errors import MaskError
from segrefine.runtime.files.rle import decode_rle, encode_rle
from tests.datasets.trial import CAR, FOX, SIZE, read, write_again


@pytest.fixture
def listing(folder: Path) -> Path:
    images = [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]},
              {"id": 2, "file_name": "sub/b.jpg", "height": SIZE[0], "width": SIZE[1]}]  # fmt: skip
    truth = [{"id": 5, "image_id": 1, "category_id": 3, "segmentation": encode_rle(FOX), "area": 1, "iscrowd": 0,
              "bbox": [0, 0, 1, 1]}]  # fmt: skip
    content = {
        "images": images,
        "annotations": truth,
        "categories": [{"id": 3, "name": "fox"}, {"id": 4, "name": "car"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


def results(folder: Path, *changes: dict) -> Path:
    found = [{"image_id": 1, "category_id": 3, "segmentation": encode_rle(FOX), "score": 0.5},
             {"image_id": 1, "category_id": 4, "segmentation": encode_rle(CAR), "score": 0.25},
             {"image_id": 2, "category_id": 4, "bbox": [18, 10, 12, 10], "score": 0.125}]  # fmt: skip
    (folder / "found.json").write_text(json.dumps([*found, *changes]))
    return folder / "found.json"


def test_a_list_in_and_out(folder, tmp_path, listing):
    dataset = open_data_set(results(folder), options=ReadingOptions(listing=str(listing)))
    assert dataset.title == "COCO results" and [item.name for item in dataset.items] == ["1", "2"]
    assert [each.label for each in read(dataset, dataset.items[0]).masks] == ["fox", "car"]
    assert len(read(dataset, dataset.items[1]).unusable) == 1
    write_again(dataset, tmp_path / "out")
    file = tmp_path / "out/results.json"
    written = json.loads(file.read_text())
    assert [each["score"] for each in written] == [0.5, 0.25, 0.125] and "id" not in written[0]
    np.testing.assert_array_equal(decode_rle(written[1]["segmentation"]), CAR)
    api = pytest.importorskip("pycocotools.coco").COCO(str(listing))
    assert sorted(api.loadRes(written[:2]).getImgIds()) == [1, 2]


def test_the_list_needs_a_listing(folder, listing):
    with pytest.raises(MaskError, match="does not name its images and categories") as caught:
        _ = open_data_set(results(folder)).items
    assert "--listing" in caught.value.hint
    with pytest.raises(MaskError, match="image_id as a whole number or text"):
        file = results(folder, {"image_id": None})
        _ = open_data_set(file, options=ReadingOptions(listing=str(listing))).items


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_list_in_any_coding_of_json(folder, listing, coding):
    file = results(folder)
    file.write_text(file.read_text(), coding)
    assert open_data_set(file, options=ReadingOptions(listing=str(listing))).title == "COCO results"


def test_results_are_compared_with_the_truth_that_lists_them(folder, listing):
    done = CliRunner().invoke(main, ["eval", str(results(folder)), str(listing), "--json"])
    values = json.loads(done.stdout)
    assert done.exit_code == 0 and values["iou_of_classes"] == {"fox": 1.0, "car": 0.0}, done.output


@pytest.mark.parametrize("name", ["result.json", "annotations.json"])
@pytest.mark.parametrize("spelled", ["images\\a.png", "images/a.png"])
def test_a_folder_as_label_studio_exports_it(folder, listing, name, spelled):
    content = json.loads(listing.read_text())
    content["images"][0]["file_name"] = spelled
    listing.unlink()
    (folder / "masks").rmdir()
    (folder / name).write_text(json.dumps(content))
    dataset = open_data_set(folder)
    assert dataset.title == "COCO" and [each.label for each in read(dataset, dataset.items[0]).masks] == ["fox"]
