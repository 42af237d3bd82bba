"""COCO JSONs are read, and refined masks go out as one; what is wrong is named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrefine.datasets.opening import open_data_set
from segrefine.errors import MaskError, OutputError
from tests.datasets.trial import CAR, FOX, SIZE, Result, read_all, results_of, write_again


@dataclass(frozen=True)
class Overlapped:
    """A mask that lost its pixels to another."""

    mask: np.ndarray
    probability: np.ndarray


def coco(folder: Path, **changes) -> Path:
    from segrefine.runtime.files.rle import count_runs, encode_rle

    content = {
        "info": {"year": 2026},
        "images": [{"id": 7, "file_name": "a.png", "height": 24, "width": 32}, {"id": 8, "file_name": "sub/b.jpg"}],
        "categories": [{"id": 3, "name": "fox"}, {"id": 5, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "segmentation": encode_rle(FOX), "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 5, "segmentation": [[18, 10, 30, 10, 30, 20, 18, 20]]},
            {"id": 3, "image_id": 7, "category_id": 5,
             "segmentation": {"size": list(SIZE), "counts": count_runs(CAR).tolist()}, "iscrowd": 1},
        ],
    }  # fmt: skip
    (folder / "coco.json").write_text(json.dumps(content | changes))
    return folder / "coco.json"


def test_coco_in_and_out(folder, tmp_path):
    dataset = open_data_set(coco(folder))
    assert [item.name for item in dataset.items] == ["7", "8"]
    masks = read_all(dataset, dataset.items[0])
    assert [label for label, _ in masks] == ["fox", "car", "car"]
    for (_, mask), truth in zip(masks, (FOX, CAR, CAR), strict=True):
        np.testing.assert_array_equal(mask > 0.5, truth)
    write_again(dataset, tmp_path / "out")
    written = json.loads((tmp_path / "out/annotations.json").read_text())
    assert written["info"] == {"year": 2026} and [each["id"] for each in written["annotations"]] == [1, 2, 3]
    assert written["annotations"][1]["bbox"] == [18, 10, 12, 10] and written["annotations"][1]["area"] == 120
    oracle = pytest.importorskip("pycocotools.coco").COCO(str(tmp_path / "out/annotations.json"))
    np.testing.assert_array_equal(oracle.annToMask(oracle.anns[1]) > 0, FOX)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"category_id": 9}, "annotation 1: category 9 is not listed"),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "annotation 1: expected 32×24 pixels"),
    ],
)
def test_annotations_that_do_not_serve_are_named(folder, annotation, message):
    given = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[1, 1, 9, 1, 9, 9]]} | annotation
    dataset = open_data_set(coco(folder, annotations=[given]))
    with pytest.raises(MaskError, match=message):
        read_all(dataset, dataset.items[0])


def test_images_of_a_json_that_do_not_serve_are_named(folder):
    images = [{"id": 7, "file_name": "../a.png"}, {"id": 8, "file_name": "a.png"}, {"id": 8, "file_name": "sub/b.jpg"}]
    annotations: list[dict] = [{"id": n, "image_id": n, "category_id": 3, "segmentation": []} for n in (8, 99)]
    dataset = open_data_set(coco(folder, images=images, annotations=annotations))
    problems = {item.name: item.problem for item in dataset.items}
    assert "leaves the folder" in problems["7"][0] and "not listed" in problems["unknown image 99"][0]
    assert all("2 images have the id 8" in problems[f"8, as entry {place}"][0] for place in (1, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "no list of images"),
        ({"annotations": [{"id": 3}]}, r"annotations\[0\]: it has no image_id"),
        ({"categories": [{"id": [3], "name": "x"}]}, r"expected id as a whole number or text, got \[3\]"),
        ({"categories": [{"id": 3, "name": 5}]}, "expected name as text, got 5"),
        ({"annotations": [{"image_id": 7, "category_id": [1]}]}, "expected category_id as a whole number or text"),
        ({"annotations": [{"image_id": 7, "id": {}}]}, "expected id as a whole number or text, got {}"),
        ({"categories": [{"id": 3, "name": "x"}, {"id": 3, "name": "y"}]}, "two categories have the id 3"),
        ({"images": [], "annotations": []}, "lists no image"),
    ],
)
def test_json_that_is_no_coco(folder, changes, message):
    with pytest.raises(MaskError, match=message):
        _ = open_data_set(coco(folder, **changes)).items


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"height": 48, "width": 64}, "a.png: expected a height of 48 pixels, as its entry says; got 24"),
        ({"height": 32, "width": 24}, "a.png: expected a height of 32 pixels"),
        ({"width": 64}, "a.png: expected a width of 64 pixels"),
        ({"height": 24, "width": None}, None),
    ],
)
def test_images_of_another_size_than_the_json_says(folder, stated, message):
    """Polygons would be drawn at the wrong scale."""
    drawn = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[2, 2, 20, 2, 20, 20]]}
    images = [{"id": 7, "file_name": "a.png", **stated}]
    dataset = open_data_set(coco(folder, images=images, annotations=[drawn]))
    if message is None:
        assert len(read_all(dataset, dataset.items[0])) == 1
        return
    with pytest.raises(MaskError, match=message) as caught:
        read_all(dataset, dataset.items[0])
    assert "EXIF" in caught.value.hint


def test_the_size_in_the_json_is_that_of_the_image_as_it_is_turned(folder):
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    Image.new("RGB", (SIZE[0], SIZE[1])).save(folder / "images/a.jpg", exif=turned)
    images = [{"id": 7, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}]
    dataset = open_data_set(coco(folder, images=images))
    assert len(read_all(dataset, dataset.items[0])) == 3


def test_annotations_that_overlap_keep_what_they_shared(folder, tmp_path):
    content = json.loads(coco(folder).read_text())
    [first, *_] = [each for each in content["annotations"] if each["image_id"] == 7]
    dataset = open_data_set(coco(folder, annotations=[first, {**first, "id": 99}]))
    item = next(each for each in dataset.items if each.masks)
    (_, own), (_, other) = ((label, mask > 0.5) for label, mask in read_all(dataset, item))
    nothing = Overlapped(mask=np.zeros(SIZE, bool), probability=other.astype(np.float32))
    (tmp_path / "out").mkdir()
    dataset.write(item, {0: Result(own), 1: nothing}, SIZE, tmp_path / "out")
    dataset.finish(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"]
    assert [each["area"] for each in written] == [int(own.sum())] * 2


def test_json_that_is_nested_without_end(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(MaskError, match="deep.json: it cannot be read as JSON"):
        _ = open_data_set(tmp_path / "deep.json").items


def test_annotations_with_nothing_to_refine_stay(folder, tmp_path):
    content = json.loads(coco(folder).read_text())
    speck, whole = [[2.1, 2.1, 2.2, 2.1, 2.2, 2.2]], [[0, 0, 32, 0, 32, 24, 0, 24]]
    given = [{**content["annotations"][0], "id": k, "segmentation": each} for k, each in enumerate((speck, whole))]
    dataset = open_data_set(coco(folder, annotations=[given[0], content["annotations"][0], given[1]]))
    assert [label for label, _ in read_all(dataset, dataset.items[0])] == ["fox"]
    write_again(dataset, tmp_path / "out")
    written = json.loads((tmp_path / "out/annotations.json").read_text())["annotations"]
    assert [written[0], written[2]] == given and written[1]["area"] == FOX.sum()


def test_ids_that_look_like_paths_stay_in_the_output(folder, tmp_path):
    names = ["../../evil", "a/b", "..", "%2e"]
    content = json.loads(coco(folder).read_text())
    mask = content["annotations"][0]["segmentation"]
    images = [{"id": name, "file_name": content["images"][0]["file_name"]} for name in names]
    annotations = [{"id": k, "image_id": name, "category_id": 3, "segmentation": mask} for k, name in enumerate(names)]
    dataset, output = open_data_set(coco(folder, images=images, annotations=annotations)), tmp_path / "out"
    write_again(dataset, output)
    assert all(dataset.is_done(item, output) for item in dataset.items)
    assert len(list((output / "parts").iterdir())) == 4
    assert len(json.loads((output / "annotations.json").read_text())["annotations"]) == 4
    assert not list(tmp_path.rglob("evil*"))


def test_who_is_handed_the_items_does_not_read_the_file(folder):
    file = coco(folder)
    dataset, handed = open_data_set(file), open_data_set(file)
    item, expected = dataset.items[0], read_all(dataset, dataset.items[0])
    file.unlink()
    for (label, mask), (name, other) in zip(read_all(handed, item), expected, strict=True):
        np.testing.assert_array_equal(mask, other)
        assert label == name


def test_output_that_cannot_be_written(folder):
    dataset = open_data_set(coco(folder))
    results = results_of(dataset, dataset.items[0])
    with pytest.raises(OutputError):
        dataset.write(dataset.items[0], results, SIZE, Path("/proc"))


def test_images_that_failed_are_left_out_and_listed(folder, tmp_path):
    """As images too: one without annotations would be one that shows nothing."""
    dataset, output = open_data_set(coco(folder, left_out=["of a run before"])), tmp_path / "out"
    output.mkdir()
    first, second = dataset.items
    dataset.write(second, {}, SIZE, output)
    dataset.finish(output)
    written = json.loads((output / "annotations.json").read_text())
    assert [image["id"] for image in written["images"]] == [8] and written["annotations"] == []
    assert written["left_out"] == [7]
    dataset.write(first, results_of(dataset, first), SIZE, output)
    dataset.finish(output)
    written = json.loads((output / "annotations.json").read_text())
    assert [image["id"] for image in written["images"]] == [7, 8] and "left_out" not in written
    assert len(written["annotations"]) == 3


@pytest.mark.parametrize("second", [7, "7"])
def test_images_with_one_id_have_failed_until_each_has_its_own(folder, tmp_path, second):
    """Whose annotations are whose is not known; what was there of that id before counts for neither."""
    images = [{"id": 7, "file_name": "a.png"}, {"id": second, "file_name": "sub/b.jpg"}]
    before, output = open_data_set(coco(folder, images=images[:1])), tmp_path / "out"
    write_again(before, output)
    dataset = open_data_set(coco(folder, images=images))
    for item in dataset.items:
        assert not dataset.is_done(item, output)
        with pytest.raises(MaskError, match="2 images have the id 7") as caught:
            read_all(dataset, item)
        assert "its own id" in caught.value.hint
    dataset.finish(output)
    written = json.loads((output / "annotations.json").read_text())
    assert written["images"] == written["annotations"] == [] and written["left_out"] == list(dict.fromkeys([7, second]))
