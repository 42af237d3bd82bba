"""Every notation of masks is read, refined masks go out in the same one, and what is wrong is named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrefine.datasets.coco import CocoDataset
from segrefine.datasets.folder import VOC_CLASSES, FolderDataset, read_label_map
from segrefine.datasets.items import read_image
from segrefine.errors import ImageError, MaskError, OutputError
from segrefine.runtime.output import save_label_map

SIZE = (24, 32)
FOX, CAR = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
FOX[4:12, 3:14], CAR[10:20, 18:30] = True, True


@dataclass(frozen=True)
class Result:
    """What a data set writes of a refinement."""

    mask: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        return np.where(self.mask, 0.9, 0.2).astype(np.float32)


@dataclass(frozen=True)
class Overlapped:
    """A mask that lost its pixels to another."""

    mask: np.ndarray
    probability: np.ndarray


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save_npy(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in ("a.png", "sub/a.png", "sub/b.jpg"):
        save(root / "images" / name, np.full((*SIZE, 3), 90, np.uint8))
    (root / "masks").mkdir()
    return root


def read_all(dataset, item):
    image = read_image(item)
    return dataset.read(item, image.shape[:2])


def masks_of(dataset, item) -> dict[str, np.ndarray]:
    return {label: mask > 0.5 for label, mask in read_all(dataset, item)}


def write_again(dataset, output: Path) -> None:
    output.mkdir(exist_ok=True)
    for item in dataset.items:
        assert not dataset.is_done(item, output)
        dataset.write(item, [(label, Result(mask > 0.5)) for label, mask in read_all(dataset, item)], SIZE, output)
        assert dataset.is_done(item, output)
    dataset.finish(output)


def test_masks_of_one_object_each(folder, tmp_path):
    for name in ("a", "sub/a", "sub/b"):
        save(folder / "masks" / f"{name}.png", FOX.astype(np.uint8) * 255)
    (folder / "labels.json").write_text('{"a": "fox", "sub/a": "car", "sub/b": "fox"}')
    dataset = FolderDataset(folder)
    assert dataset.kind == "mask" and [item.name for item in dataset.items] == ["a", "sub/a", "sub/b"]
    [(label, mask)] = read_all(dataset, dataset.items[1])
    assert label == "car" and mask.dtype == np.float32
    write_again(dataset, tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/masks/sub/b.png")) > 0, FOX)


def test_label_maps_in_the_colours_of_voc(folder, tmp_path):
    indices = np.where(FOX, 7, np.where(CAR, 15, 0)).astype(np.uint8)
    indices[0] = 255  # the border that VOC leaves open
    for name in ("a", "sub/a", "sub/b"):
        (folder / "masks" / name).parent.mkdir(exist_ok=True)
        save_label_map(folder / "masks" / f"{name}.png", indices)
    dataset = FolderDataset(folder)
    assert dataset.kind == "label map"
    found = masks_of(dataset, dataset.items[0])
    assert set(found) == {"car", "person"} == {VOC_CLASSES[7], VOC_CLASSES[15]}
    np.testing.assert_array_equal(found["person"], CAR)
    write_again(dataset, tmp_path / "out")
    written = Image.open(tmp_path / "out/masks/sub/a.png")
    assert written.mode == "P" and written.getpalette()[3:6] == [128, 0, 0]
    indices[indices == 255] = 0
    np.testing.assert_array_equal(read_label_map(tmp_path / "out/masks/sub/a.png"), indices)


def test_three_hundred_classes(folder, tmp_path):
    (folder / "classes.json").write_text(json.dumps(["background", *(f"thing {i}" for i in range(1, 300))]))
    indices = np.where(FOX, 299, np.where(CAR, 255, 0)).astype(np.uint16)
    for name in ("a", "sub/a", "sub/b"):
        save(folder / "masks" / f"{name}.png", indices)
    dataset = FolderDataset(folder)
    assert set(masks_of(dataset, dataset.items[0])) == {"thing 299", "thing 255"}
    write_again(dataset, tmp_path / "out")
    np.testing.assert_array_equal(read_label_map(tmp_path / "out/masks/a.png"), indices)


def test_folders_of_classes_hard_and_soft(folder, tmp_path):
    soft = np.linspace(0, 1, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
    for name in ("a", "sub/a", "sub/b"):
        save(folder / "masks/fox" / f"{name}.png", FOX.astype(np.uint8) * 255)
        save_npy(folder / "masks/car" / f"{name}.npy", soft)
        save(folder / "masks/tree" / f"{name}.png", (CAR * 40000).astype(np.uint16))
        save(folder / "masks/boat" / f"{name}.png", np.zeros(SIZE, np.uint8))
    dataset = FolderDataset(folder)
    assert dataset.kind == "class folders"
    found = dict(read_all(dataset, dataset.items[2]))
    assert set(found) == {"fox", "car", "tree"}  # there is no boat
    np.testing.assert_allclose(found["car"], soft)
    assert found["tree"].max() == pytest.approx(40000 / 65535)
    write_again(dataset, tmp_path / "out")
    assert np.load(tmp_path / "out/masks/car/sub/b.npy").dtype == np.float32
    assert np.asarray(Image.open(tmp_path / "out/masks/tree/a.png")).dtype == np.uint16
    assert not np.asarray(Image.open(tmp_path / "out/masks/boat/a.png")).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: None, "there is no mask"),
        (lambda root: save(root / "masks/a.png", np.eye(9, dtype=np.uint8) * 255), "expected 32×24 pixels"),
        (lambda root: save(root / "masks/a.png", np.full(SIZE, 99, np.uint8)), "index 99, which has no name"),
        (lambda root: save(root / "masks/a.png", np.full((*SIZE, 3), (9, 80, 3), np.uint8)), "got colours"),
        (lambda root: (root / "masks/a.png").symlink_to("/proc/self/cmdline"), "leads out"),
        (lambda root: (root / "masks/a.png").write_bytes(b"\x89PNG damaged"), "no picture|damaged"),
    ],
)
def test_masks_that_do_not_serve_are_named(folder, change, message):
    change(folder)
    dataset = FolderDataset(folder)
    with pytest.raises((MaskError, ImageError), match=message) as caught:
        read_all(dataset, dataset.items[0])
    assert caught.value.hint


def test_classes_that_are_nowhere_or_everywhere_stay_as_they_are(folder, tmp_path):
    faint, everything = np.full(SIZE, 0.4, np.float32), np.full(SIZE, 0.9, np.float32)
    for name in ("a", "sub/a", "sub/b"):
        save_npy(folder / "masks" / "faint" / f"{name}.npy", faint)
        save_npy(folder / "masks" / "sky" / f"{name}.npy", everything)
        save(folder / "masks" / "fox" / f"{name}.png", FOX.astype(np.uint8) * 255)
    dataset = FolderDataset(folder)
    assert [list(masks_of(dataset, item)) for item in dataset.items] == [["fox"]] * 3
    write_again(dataset, tmp_path / "out")
    np.testing.assert_array_equal(np.load(tmp_path / "out/masks/faint/a.npy"), faint)
    np.testing.assert_array_equal(np.load(tmp_path / "out/masks/sky/sub/b.npy"), everything)
    save_npy(folder / "masks" / "faint" / "a.npy", np.full(SIZE, np.nan, np.float32))
    with pytest.raises(MaskError, match="expected probabilities from 0 to 1, got NaN"):
        read_all(dataset, dataset.items[0])


def test_a_label_map_of_one_class_stays_as_it_is(folder, tmp_path):
    (folder / "masks" / "sub").mkdir()
    for name, index in (("a", 7), ("sub/a", 7), ("sub/b", 255)):
        save_label_map(folder / "masks" / f"{name}.png", np.full(SIZE, index, np.uint16))
    dataset = FolderDataset(folder)
    assert not any(masks_of(dataset, item) for item in dataset.items)
    write_again(dataset, tmp_path / "out")
    assert (read_label_map(tmp_path / "out/masks/a.png") == 7).all()
    assert (read_label_map(tmp_path / "out/masks/sub/b.png") == 255).all()


def test_images_that_do_not_serve_are_named(folder, tmp_path):
    secret = save(tmp_path / "secret.png", np.zeros((*SIZE, 3), np.uint8))
    (folder / "images/link.png").symlink_to(secret)
    save(folder / "images/a.bmp", np.zeros((*SIZE, 3), np.uint8))
    problems = {}
    for item in FolderDataset(folder).items:
        try:
            read_image(item)
        except (ImageError, MaskError) as error:
            problems[item.name] = str(error)
    assert set(problems) == {"link", "a.png"}
    assert "leads out" in problems["link"] and "have one name" in problems["a.png"]


def test_folders_that_are_none(tmp_path, folder):
    with pytest.raises(MaskError, match="no folder"):
        FolderDataset(tmp_path / "none")
    (folder / "classes.json").write_text('["background", "fox", "fox"]')
    with pytest.raises(MaskError, match="one name twice"):
        FolderDataset(folder)
    (folder / "labels.json").write_text("{")
    with pytest.raises(MaskError, match="cannot read"):
        FolderDataset(folder)


def coco(folder: Path, **changes) -> Path:
    from segrefine.runtime.rle import count_runs, encode_rle

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
    dataset = CocoDataset(coco(folder))
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
        ({"segmentation": None}, "annotation 1: expected run lengths"),
        ({"segmentation": [[1, 2]]}, "annotation 1: expected a polygon"),
    ],
)
def test_annotations_that_do_not_serve_are_named(folder, annotation, message):
    given = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[1, 1, 9, 1, 9, 9]]} | annotation
    dataset = CocoDataset(coco(folder, annotations=[given]))
    with pytest.raises(MaskError, match=message):
        read_all(dataset, dataset.items[0])


def test_images_of_a_json_that_do_not_serve_are_named(folder):
    images = [{"id": 7, "file_name": "../a.png"}, {"id": 8, "file_name": "a.png"}, {"id": 8, "file_name": "sub/b.jpg"}]
    annotations = [{"id": 1, "image_id": 99, "category_id": 3, "segmentation": []}]
    dataset = CocoDataset(coco(folder, images=images, annotations=annotations))
    problems = {item.name: item.problem for item in dataset.items}
    assert "leaves the folder" in problems["7"][0] and problems["8"] is None
    assert "two images" in problems["8, again as entry 2"][0] and "not listed" in problems["unknown image 99"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "no list of images"),
        ({"annotations": [{"id": 3}]}, "annotations has no image_id"),
        ({"categories": [{"id": [3], "name": "x"}]}, "something else than numbers"),
        ({"annotations": [{"image_id": 7, "category_id": [1]}]}, "neither a number nor text"),
        ({"annotations": [{"image_id": 7, "id": {}}]}, "neither a number nor text"),
        ({"categories": [{"id": 3, "name": "x"}, {"id": 3, "name": "y"}]}, "two categories have the id 3"),
        ({"images": [], "annotations": []}, "lists no image"),
    ],
)
def test_json_that_is_no_coco(folder, changes, message):
    with pytest.raises(MaskError, match=message):
        _ = CocoDataset(coco(folder, **changes)).items


def test_annotations_that_overlap_keep_what_they_shared(folder, tmp_path):
    content = json.loads(coco(folder).read_text())
    [first, *_] = [each for each in content["annotations"] if each["image_id"] == 7]
    dataset = CocoDataset(coco(folder, annotations=[first, {**first, "id": 99}]))
    item = next(each for each in dataset.items if each.masks)
    (label, own), (_, other) = ((label, mask > 0.5) for label, mask in read_all(dataset, item))
    nothing = Overlapped(mask=np.zeros(SIZE, bool), probability=other.astype(np.float32))
    (tmp_path / "out").mkdir()
    dataset.write(item, [(label, Result(own)), (label, nothing)], SIZE, tmp_path / "out")
    dataset.finish(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"]
    assert [each["area"] for each in written] == [int(own.sum())] * 2


def test_json_that_is_nested_without_end(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(MaskError, match="cannot read .* as JSON"):
        _ = CocoDataset(tmp_path / "deep.json").items


def test_annotations_with_nothing_to_refine_stay(folder, tmp_path):
    content = json.loads(coco(folder).read_text())
    speck, whole = [[2.1, 2.1, 2.2, 2.1, 2.2, 2.2]], [[0, 0, 32, 0, 32, 24, 0, 24]]
    given = [{**content["annotations"][0], "id": k, "segmentation": each} for k, each in enumerate((speck, whole))]
    dataset = CocoDataset(coco(folder, annotations=[given[0], content["annotations"][0], given[1]]))
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
    dataset, output = CocoDataset(coco(folder, images=images, annotations=annotations)), tmp_path / "out"
    write_again(dataset, output)
    assert all(dataset.is_done(item, output) for item in dataset.items)
    assert len(list((output / "parts").iterdir())) == 4
    assert len(json.loads((output / "annotations.json").read_text())["annotations"]) == 4
    assert not list(tmp_path.rglob("evil*"))


def test_who_is_handed_the_items_does_not_read_the_file(folder):
    file = coco(folder)
    item, expected = CocoDataset(file).items[0], read_all(CocoDataset(file), CocoDataset(file).items[0])
    file.unlink()
    for (label, mask), (name, other) in zip(read_all(CocoDataset(file), item), expected, strict=True):
        np.testing.assert_array_equal(mask, other)
        assert label == name


def test_output_that_cannot_be_written(folder):
    dataset = CocoDataset(coco(folder))
    results = [(label, Result(mask > 0.5)) for label, mask in read_all(dataset, dataset.items[0])]
    with pytest.raises(OutputError):
        dataset.write(dataset.items[0], results, SIZE, Path("/proc"))
