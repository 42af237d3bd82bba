"""COCO JSONs as programs write them: ids of several types, names of several systems, annotations without a mask."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segrefine.cli import main
from segrefine.datasets.coco_file import find_file, key_of, read_coco
from segrefine.datasets.items import read_image, whole_number
from segrefine.datasets.notation import Place, ReadingOptions
from segrefine.datasets.opening import detect_notation, open_data_set
from segrefine.errors import MaskError
from segrefine.runtime.files.mask import CoarseMask
from segrefine.runtime.files.rle import decode_rle, encode_rle
from tests.datasets.trial import CAR, FOX, SIZE, read, read_all, save, write_again
from tests.examples import examples

SPELLINGS = [int, float, str, lambda number: f"{number}.0"]
spelling = st.sampled_from(SPELLINGS)


def content_of(file_names: list[str], *annotations: dict) -> dict:
    images = [{"id": number, "file_name": name} for number, name in enumerate(file_names, 1)]
    categories = [{"id": 1, "name": "fox"}, {"id": 2, "name": "car"}]
    return {"images": images, "annotations": list(annotations), "categories": categories}


def annotation(number: int, mask: np.ndarray = FOX, **changes) -> dict:
    return {"id": number, "image_id": 1, "category_id": 1, "segmentation": encode_rle(mask)} | changes


def compared(file: Path):
    place = Place(masks=file, images=None, root=file.parent, to_refine=False)
    return detect_notation(place)(place)


def write(folder: Path, content: dict) -> Path:
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


two, three = (st.lists(spelling, min_size=count, max_size=count) for count in (2, 3))


@given(images=two, links=three, categories=two, of=three)
@settings(max_examples=examples(40), deadline=None)
def test_ids_of_several_types_are_one(tmp_path_factory, images, links, categories, of):
    oracle = pytest.importorskip("pycocotools.coco")
    folder = tmp_path_factory.mktemp("ids")
    for name in ("a.png", "b.png"):
        save(folder / "images" / name, np.full((*SIZE, 3), 90, np.uint8))
    content = content_of(["a.png", "b.png"], annotation(1), annotation(2, CAR, category_id=2),
                         annotation(3, image_id=2))  # fmt: skip
    truth = write(folder, content).rename(folder / "truth.json")
    for spell, image in zip(images, content["images"], strict=True):
        image["id"] = spell(image["id"])
    for spell, category in zip(categories, content["categories"], strict=True):
        category["id"] = spell(category["id"])
    for link, own, each in zip(links, of, content["annotations"], strict=True):
        each |= {"image_id": link(each["image_id"]), "category_id": own(each["category_id"]), "id": link(each["id"])}
    file = write(folder, content)
    write_again(open_data_set(file), folder / "out")
    api = oracle.COCO(str(folder / "out/annotations.json"))
    by_name = {api.imgs[key]["file_name"]: api.imgToAnns[key] for key in api.imgs}
    labels = {name: [api.cats[each["category_id"]]["name"] for each in own] for name, own in by_name.items()}
    assert labels == {"a.png": ["fox", "car"], "b.png": ["fox"]}
    np.testing.assert_array_equal(decode_rle(by_name["a.png"][1]["segmentation"]), CAR)
    first, second = compared(truth), compared(file)
    assert list(first.entries) == list(second.entries) == ["1", "2"] and first.identities() == second.identities()


@pytest.mark.parametrize("number", [True, None, 1.5, float("nan"), float("inf"), [1], {}])
def test_what_is_no_id(tmp_path, number):
    assert key_of(number) is None
    for kind, name in (("images", "id"), ("annotations", "image_id"), ("categories", "id")):
        content = content_of(["a.png"], annotation(1))
        content[kind][0][name] = number
        with pytest.raises(MaskError, match=rf"{kind}\[0\]: expected {name} as a whole number or text, got"):
            read_coco(write(tmp_path, content))


@pytest.mark.parametrize("name", ["007", "1e3", "-0", "x1", "", "1.5", "²"])
def test_text_that_is_no_number_stays_a_name(name):
    assert key_of(name) == name


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("images", "image_id", "listed in images: expected text such as 'x', got numbers such as 1"),
        ("categories", "category_id", "categories: expected text such as 'x', got numbers such as 1"),
    ],
)
def test_ids_that_are_of_something_else_are_refused_at_the_start(tmp_path, kind, name, words):
    content = content_of(["a.png"], annotation(1))
    content[kind] = [{**content[kind][0], "id": "x"}]
    file = write(tmp_path, content)
    with pytest.raises(MaskError, match=words) as caught:
        _ = open_data_set(file).items
    assert caught.value.hint == f"make them the ids of {kind}"
    with pytest.raises(MaskError, match=words):
        _ = compared(file).entries


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("sub/b.jpg", "sub/b.jpg"), ("sub\\b.jpg", "sub/b.jpg"), ("./a.png", "a.png"), ("sub//b.jpg", "sub/b.jpg"),
        ("sub/../a.png", "a.png"), ("images/a.png", "a.png"), ("images\\a.png", "a.png"), (".\\images\\a.png", "a.png"),
    ],
)  # fmt: skip
def test_file_names_as_other_programs_write_them(folder, name, path):
    assert find_file(folder / "images", name) == (path, None)
    item = open_data_set(write(folder, content_of([name], annotation(1)))).items[0]
    assert read_image(item).shape[:2] == SIZE


def test_names_that_stand_for_themselves(folder):
    save(folder / "images/images/a.png", np.zeros((*SIZE, 3), np.uint8))
    assert find_file(folder / "images", "images/a.png") == ("images/a.png", None)  # it is there
    save(folder / "images/odd\\name.png", np.zeros((*SIZE, 3), np.uint8))
    assert find_file(folder / "images", "odd\\name.png") == ("odd\\name.png", None)
    assert find_file(folder / "images", str(folder / "images/a.png")) == ("a.png", None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("http://host/a.png", "is an address"), ("s3://bucket/a.png", "is an address"),
        ("data:image/png;base64,AAAA", "is an address"), ("C:\\data\\a.png", "absolute path of Windows"),
        ("\\\\server\\a.png", "absolute path of Windows"), ("../a.png", "leaves the folder of images"),
        ("..\\a.png", "leaves the folder of images"), ("sub/../../a.png", "leaves the folder"),
        ("/etc/passwd", "leaves the folder"), ("a\0.png", "zero byte"), (".", "names no file"), ("", "names no file"),
    ],
)  # fmt: skip
def test_file_names_that_are_refused_say_why(folder, name, words):
    [item] = open_data_set(write(folder, content_of([name], annotation(1)))).items
    with pytest.raises(MaskError, match=words) as caught:
        read_image(item)
    assert caught.value.hint


def test_sizes_as_text(folder):
    content = content_of(["a.png"], annotation(1), annotation(2))
    content["images"][0] |= {"height": str(SIZE[0]), "width": float(SIZE[1])}
    content["annotations"][1]["segmentation"]["size"] = [str(side) for side in SIZE]
    file = write(folder, content)
    dataset = open_data_set(file)
    assert len(read_all(dataset, dataset.items[0])) == 2
    assert (other := compared(file)).read(other.entries["1"]).size == SIZE
    content["images"][0]["height"] = "high"
    with pytest.raises(MaskError, match="expected a height in pixels in its entry, got 'high'"):
        read_image(open_data_set(write(folder, content)).items[0])
    assert whole_number("128") == whole_number(128.0) == 128
    assert {whole_number(each) for each in ("1.5", 1.5, True, None, float("nan"), "²", "-")} == {None}


UNUSABLE = [
    {"segmentation": []}, {"segmentation": None}, {"segmentation": {}}, {"segmentation": "text"},
    {"segmentation": [[]]}, {"segmentation": [[1, 2]]}, {"segmentation": [[1, 2, 3, 4]]}, {"segmentation": [[1] * 7]},
    {"segmentation": [["1", "2"] * 3]}, {"segmentation": [1, 1, 9, 1, 9, 9]}, {"segmentation": {"counts": [1]}},
    {"segmentation": {"size": list(SIZE), "counts": [5]}}, {"segmentation": {"size": list(SIZE), "counts": "%%"}},
    {"segmentation": [], "keypoints": [1, 2, 2], "num_keypoints": 1},
]  # fmt: skip


@pytest.mark.parametrize("changes", UNUSABLE)
def test_an_annotation_without_a_usable_mask_stays_and_the_rest_is_refined(folder, tmp_path, changes):
    bad = annotation(9, bbox=[5, 5, 12, 9], area=108) | changes
    file = write(folder, content_of(["a.png"], annotation(1), bad, annotation(2, CAR, category_id=2)))
    dataset = open_data_set(file)
    item = dataset.items[0]
    reading = read(dataset, item)
    assert [each.annotation for each in reading.masks] == [1, 2] and len(reading.unusable) == 1
    assert reading.unusable[0].startswith("annotation 9")
    write_again(dataset, tmp_path / "out")
    written = json.loads((tmp_path / "out/annotations.json").read_text())["annotations"]
    assert written[1] == bad and [each["id"] for each in written] == [1, 9, 2]
    with_boxes = read(open_data_set(file, options=ReadingOptions(boxes=True)), item)
    assert [each.annotation for each in with_boxes.masks] == [1, 9, 2] and not with_boxes.unusable
    boxed = with_boxes.masks[1].mask
    assert isinstance(boxed, CoarseMask)
    inside = boxed.confusion
    assert inside[5:14, 5:17].all() and not inside[:3].any() and not inside[:, 20:].any()


def test_an_annotation_without_a_key_has_no_mask_either(folder):
    lone = {key: value for key, value in annotation(1).items() if key != "segmentation"}
    dataset = open_data_set(write(folder, content_of(["a.png"], lone)), options=ReadingOptions(boxes=True))
    assert read(dataset, dataset.items[0]).unusable == ["annotation 1 has no mask: it has none"]


@pytest.mark.parametrize(
    "box", [[5, 5, 0, 9], [5, 5, -3, 9], [900, 5, 3, 9], [1, 2, 3], "box", [1, 2, 3, "4"], [1, 2, float("nan"), 4]]
)
def test_a_box_that_is_none_is_counted(folder, box):
    file = write(folder, content_of(["a.png"], annotation(1), annotation(2, segmentation=[], bbox=box)))
    dataset = open_data_set(file, options=ReadingOptions(boxes=True))
    reading = read(dataset, dataset.items[0])
    assert [each.annotation for each in reading.masks] == [1]
    assert reading.unusable[0].startswith("annotation 2: ") and "box" in reading.unusable[0]


def test_a_part_of_two_corners_covers_nothing(folder):
    square = [3, 4, 14, 4, 14, 12, 3, 12]
    masks = [
        annotation(k, segmentation=drawn) for k, drawn in enumerate(([square], [[1, 2, 3, 4], square, [7, 7], []]))
    ]
    dataset = open_data_set(write(folder, content_of(["a.png"], *masks)))
    (_, alone), (_, beside) = read_all(dataset, dataset.items[0])
    np.testing.assert_array_equal(alone, beside)


def test_batch_and_eval_count_what_has_no_mask(folder, tmp_path):
    for path in (folder / "images").rglob("*.*"):
        Image.effect_noise(SIZE[::-1], 90).convert("RGB").save(path)
    mixed = [annotation(1), annotation(2, segmentation=[], bbox=[16, 8, 14, 12]), annotation(3, segmentation=[])]
    content = content_of(["a.png", "gone.png"], *mixed, annotation(4, image_id="2"))
    file, output = write(folder, content), tmp_path / "out"
    words = ["batch", str(file), str(output), "--workers", "1", "--threads", "1", "--boxes", "--json"]
    done = CliRunner().invoke(main, words)
    values = json.loads(done.stdout)
    assert done.exit_code == 1 and (values["done"], values["failed"], values["masks_refined"]) == (1, 1, 2), done.output
    assert values["unusable_masks"] == ["1: annotation 3 has no mask: expected polygons or run lengths, got []"]
    assert "annotations without a usable mask, which stayed as they were: 1" in done.stderr
    written = json.loads((output / "annotations.json").read_text())
    assert [image["id"] for image in written["images"]] == [1] and written["left_out"] == [2]
    assert [each["segmentation"] == [] for each in written["annotations"]] == [False, False, True]
    content["images"][0] |= {"height": SIZE[0], "width": SIZE[1]}
    done = CliRunner().invoke(main, ["eval", str(output), str(write(folder, content)), "--json"])
    values = json.loads(done.stdout)
    assert done.exit_code == 0 and [each["mask"] for each in values["masks"]] == ["1"], done.output
    assert len(values["unusable_masks"]) == 2
    assert "2 annotations without a usable mask are not compared" in done.stderr
