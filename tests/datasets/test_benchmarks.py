"""Benchmarks of label maps and objects, on their real directory layouts, with the faults that such sets have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segrefine.datasets.images_alone import ImagesAlone
from segrefine.datasets.layouts import CITYSCAPES_IDS, COCO_OBJECT_IDS, COCO_STUFF_IDS, find_benchmark
from segrefine.datasets.notation import ReadingOptions
from segrefine.datasets.opening import open_compared, open_data_set, place_of_benchmark
from segrefine.errors import MaskError, SegrefineError
from segrefine.evaluation.comparison import Comparison, Places
from tests.datasets.benchmark_sets import (
    NAMES,
    PHOTO,
    indices,
    write_ade20k,
    write_big,
    write_cityscapes,
    write_coco,
    write_context,
    write_davis,
    write_voc,
)
from tests.datasets.trial import CAR, FOX, masks_of, save, write_again

MAPS = {
    "voc": (write_voc, {"cat": FOX, "car": CAR}),
    "context": (write_context, {"cat": FOX, "car": None}),
    "coco-object": (lambda root: write_coco(root, "_instanceTrainIds.png"), {"cat": FOX, "car": CAR}),
    "coco-stuff": (lambda root: write_coco(root, "_labelTrainIds.png"), {"cat": FOX, "car": CAR, "sky": None}),
    "ade20k": (write_ade20k, {"person": FOX, "car": CAR}),
    "cityscapes": (lambda root: write_cityscapes(root, raw=False), {"person": FOX, "car": CAR}),
    "cityscapes raw": (lambda root: write_cityscapes(root, raw=True), {"person": FOX, "car": CAR}),
}


@pytest.mark.parametrize("name", MAPS)
def test_label_maps_on_their_layout(name, tmp_path):
    write, expected = MAPS[name]
    data = open_data_set(write(tmp_path / "data"))
    assert data.described == "the label maps of a benchmark"
    prefix = "bern_" if name.startswith("cityscapes") else ""
    assert [item.name for item in data.items] == [prefix + each for each in NAMES]  # and no image of another split
    found = masks_of(data, data.items[0])
    for label, mask in expected.items():
        assert label in found
        if mask is not None:  # the last column is of no class
            np.testing.assert_array_equal(found[label][:, :-1], mask[:, :-1])
            assert name == "ade20k" or not found[label][:, -1].any()


@pytest.mark.parametrize("name", MAPS)
def test_label_maps_are_written_and_compared(name, tmp_path):
    """What is written flat, by name, is compared with the truth where it lies."""
    write, _ = MAPS[name]
    root, output = write(tmp_path / "data"), tmp_path / "out"
    data = open_data_set(root)
    output.mkdir()
    for item in data.items:
        assert not data.is_done(item, output)
        data.write(item, {}, (24, 32), output)
        assert data.is_done(item, output) and (output / "masks" / f"{item.name}.png").is_file()
    scores, unread = Comparison(Places(predicted=output, truth=root)).score_all()
    assert not unread and scores and all(score.after.iou == 1.0 for score in scores)


def test_raw_values_become_those_of_the_class_list(tmp_path):
    root = write_coco(tmp_path, ".png")
    with pytest.raises(MaskError, match="holds COCO-Object and COCO-Stuff") as refused:
        find_benchmark(root)
    assert "--classes coco-object or --classes coco-stuff" in str(refused.value.hint)
    for classes, stuff in (("coco-object", False), ("coco-stuff", True)):
        data = open_data_set(root, options=ReadingOptions(classes=classes))
        found = masks_of(data, data.items[0])
        assert ("sky" in found) == stuff and {"cat", "car"} <= found.keys()


def test_raw_values_are_those_of_the_converters():
    """The converters keep the order, leave eleven things out, and give each kind its own numbers."""
    assert len(COCO_STUFF_IDS) == 171 and sorted(COCO_STUFF_IDS.values()) == list(range(171))
    assert COCO_STUFF_IDS[0] == 0 and COCO_STUFF_IDS[89] == 79 and COCO_STUFF_IDS[91] == 80
    assert COCO_OBJECT_IDS[89] == 80 and COCO_OBJECT_IDS[181] == 0 and 11 not in COCO_OBJECT_IDS
    assert CITYSCAPES_IDS[24] == 11 and CITYSCAPES_IDS[33] == 18 and len(CITYSCAPES_IDS) == 19


def test_coarse_masks_of_another_folder_are_refined_for_the_split(tmp_path):
    root, coarse, output = write_voc(tmp_path / "data"), tmp_path / "coarse", tmp_path / "out"
    for name in (*NAMES, "stranger"):
        save(coarse / f"{name}.png", indices(8, 8, void=None))
    data = open_data_set(root, options=ReadingOptions(coarse=str(coarse)))
    assert [item.name for item in data.items] == list(NAMES)
    np.testing.assert_array_equal(masks_of(data, data.items[0])["cat"], FOX | CAR)
    write_again(data, output)
    scores, _ = Comparison(Places(predicted=output, truth=root, coarse=coarse)).score_all()
    assert {score.label for score in scores} >= {"cat", "car", "background"}
    missing = ReadingOptions(coarse=str(tmp_path / "none"))
    with pytest.raises(MaskError, match="--coarse"):
        open_data_set(root, options=missing)


def test_activation_maps_are_coarse_masks_too(tmp_path):
    root, coarse = write_voc(tmp_path / "data"), tmp_path / "cams"
    coarse.mkdir()
    for name in NAMES:
        np.save(coarse / f"{name}.npy", np.array({"keys": np.array([7]), "high_res": FOX[None].astype(np.float32)}))
    data = open_data_set(root, options=ReadingOptions(coarse=str(coarse)))
    np.testing.assert_array_equal(masks_of(data, data.items[1])["cat"], FOX)


def test_splits_by_name_and_by_list(tmp_path):
    root = write_voc(tmp_path / "data")
    assert [item.name for item in open_data_set(root, options=ReadingOptions(split="train")).items] == ["other"]
    listed = tmp_path / "train_aug.txt"
    listed.write_text("/JPEGImages/two.jpg /SegmentationClassAug/two.png\n/JPEGImages/other.jpg x\n")
    names = [item.name for item in open_data_set(root, options=ReadingOptions(split=str(listed))).items]
    assert names == ["two", "other"]
    with pytest.raises(MaskError, match="has no split 'test'") as refused:
        open_data_set(root, options=ReadingOptions(split="test"))
    assert "train, val" in str(refused.value.hint)
    ade = write_ade20k(tmp_path / "ade")
    with pytest.raises(MaskError, match="has no split 'test'"):
        open_data_set(ade, options=ReadingOptions(split="test"))


def test_below_the_folder_that_is_named(tmp_path):
    write_voc(tmp_path / "VOCdevkit/VOC2012")
    assert [item.name for item in open_data_set(tmp_path / "VOCdevkit").items] == list(NAMES)


def test_voc_and_context_in_one_folder_are_told_apart(tmp_path):
    write_voc(tmp_path)
    write_context(tmp_path)
    with pytest.raises(MaskError, match="PASCAL VOC 2012 and PASCAL Context"):
        open_data_set(tmp_path)
    assert find_benchmark(tmp_path, classes="context60").layout.title == "PASCAL Context"
    assert find_benchmark(tmp_path, classes="voc").layout.title == "PASCAL VOC 2012"


def test_half_a_data_set_says_what_is_missing_and_how_many(tmp_path):
    root = write_voc(tmp_path / "data")
    lists = root / "ImageSets/Segmentation/val.txt"
    lists.write_text("one\ntwo\ntwo\n\nthree\n")
    (root / "JPEGImages/one.jpg").unlink()
    data = open_data_set(root)
    problems = {item.name: item.problem for item in data.items}
    assert problems["two"] is None and "there is no image one.jpg" in problems["one"][0]
    told = "; ".join(data.lacks)
    assert "2 of 3 images are missing" in told and "one, three" in told
    assert "1 of 3 label maps are missing" in told and "the split lists 1 names twice, such as two" in told
    assert "has 1449 images, and 3 are listed here" in told
    predicted = tmp_path / "predicted"
    for name in ("one", "two"):
        save(predicted / f"{name}.png", indices(8, 7))
    comparison = Comparison(Places(predicted=predicted, truth=root))
    assert comparison.names == ["one", "two"] and any("label maps are missing" in each for each in comparison.lacks)


def test_predictions_of_another_split_or_size_are_refused(tmp_path):
    root, predicted = write_voc(tmp_path / "data"), tmp_path / "predicted"
    save(predicted / "other.png", indices(8, 7))
    with pytest.raises(MaskError, match="has no mask 'one' and 1 more"):
        Comparison(Places(predicted=predicted, truth=root))
    for name in NAMES:
        save(predicted / f"{name}.png", indices(8, 7)[:12])
    with pytest.raises(MaskError, match="the predicted and the true mask are 32×12 and 32×24 pixels"):
        Comparison(Places(predicted=predicted, truth=root)).score_all()


def test_a_data_set_that_is_no_benchmark_takes_no_split(tmp_path):
    for name in NAMES:
        save(tmp_path / "images" / f"{name}.png", np.zeros((24, 32, 3), np.uint8))
        save(tmp_path / "masks" / f"{name}.png", indices(8, 7))
    with pytest.raises(SegrefineError, match="--split is for"):
        open_data_set(tmp_path, options=ReadingOptions(split="val"))
    with pytest.raises(SegrefineError, match="--coarse is for"):
        open_data_set(tmp_path, options=ReadingOptions(coarse=str(tmp_path)))


@pytest.mark.parametrize("paths", [False, True])
def test_davis(paths, tmp_path):
    data = open_data_set(write_davis(tmp_path / "DAVIS", paths=paths))
    assert [item.name for item in data.items] == ["bear/00000", "bmx-trees/00000"]
    np.testing.assert_array_equal(masks_of(data, data.items[0])["bear"], FOX)
    parts = data.read(data.items[1])
    assert parts.labels == {1: "bmx trees", 2: "bmx trees 2"} and set(parts.prompts.values()) == {"bmx trees"}
    output = tmp_path / "out"
    write_again(data, output)
    assert set(np.unique(np.asarray(Image.open(output / "masks/bmx-trees/00000.png")))) == {0, 1, 2}
    scores, unread = Comparison(Places(predicted=output, truth=tmp_path / "DAVIS")).score_all()
    assert not unread and [score.after.iou for score in scores] == [1.0, 1.0, 1.0]


def test_objects_of_davis_find_their_partners_where_another_one_vanished(tmp_path):
    root, predicted = write_davis(tmp_path / "DAVIS"), tmp_path / "predicted"
    save(predicted / "bear/00000.png", FOX.astype(np.uint8))  # a number where the truth is white
    save(predicted / "bmx-trees/00000.png", np.where(CAR, 2, 0).astype(np.uint8))
    scores, _ = Comparison(Places(predicted=predicted, truth=root)).score_all()
    found = {score.label: score.after.iou for score in scores}
    assert found == {"bear": 1.0, "bmx trees": 0.0, "bmx trees 2": 1.0}


def test_void_of_davis_does_not_count(tmp_path):
    root, predicted = write_davis(tmp_path / "DAVIS"), tmp_path / "predicted"
    for folder, void in ((root / "Annotations/480p", 255), (predicted, 0)):
        picture = Image.fromarray(np.where(FOX, 1, np.where(CAR, void, 0)).astype(np.uint8))
        picture.putpalette(list(range(256)) * 3)
        (folder / "bear").mkdir(parents=True, exist_ok=True)
        picture.save(folder / "bear/00000.png")
        save(folder / "bmx-trees/00000.png", indices(1, 2, void=None))
    scores, _ = Comparison(Places(predicted=predicted, truth=root)).score_all()
    assert [(score.label, score.after.iou) for score in scores if "bear" in score.label] == [("bear", 1.0)]


def test_half_of_davis_says_what_is_missing(tmp_path):
    root = write_davis(tmp_path / "DAVIS")
    (root / "ImageSets/2017/val.txt").write_text("bear\ngone\nbmx-trees\nbear\n")
    save(root / "JPEGImages/480p/bear/00003.jpg", PHOTO)
    data = open_data_set(root)
    assert [item.name for item in data.items] == [f"bear/0000{n}" for n in range(4)] + ["bmx-trees/00000"]
    told = "; ".join(data.lacks)
    assert "2 of 5 images are missing" in told and "3 of 5 masks are missing" in told
    assert "1 sequences of the split are missing: gone" in told and "lists 4 names twice, such as bear/00000" in told


def test_big_of_two_splits(tmp_path):
    for split in ("val", "test"):
        write_big(tmp_path / "big" / split)
    (tmp_path / "big/test/0001_gt.png").unlink()
    truth = place_of_benchmark(tmp_path / "big", None, ReadingOptions(split="test"), to_refine=False)
    assert truth is not None and truth.benchmark is not None and truth.benchmark.split == "test"
    [missing, whole] = open_compared([truth])[0].lacks
    assert "1 of 2 masks are missing" in missing and "has 100 images, and 2 are listed" in whole
    with pytest.raises(MaskError, match="has no split 'train'"):
        open_data_set(tmp_path / "big", options=ReadingOptions(split="train"))
    with pytest.raises(MaskError, match="has no split 'test'"):  # the folder is that of another split
        open_data_set(tmp_path / "big/val", options=ReadingOptions(split="test"))
    assert [item.name for item in open_data_set(tmp_path / "big").items] == ["0001", "2007_000033_aeroplane"]


def test_label_maps_of_coco_beside_its_annotation_files(tmp_path):
    """The usual root has JSONs in `annotations`, and the label maps in `stuffthingmaps`."""
    root = write_coco(tmp_path / "coco", ".png")
    (root / "stuffthingmaps").mkdir()
    (root / "annotations/val2017").rename(root / "stuffthingmaps/val2017")
    (root / "annotations/instances_val2017.json").write_text("{}")
    data = open_data_set(root, options=ReadingOptions(classes="coco-stuff"))
    assert len(data.entries) == 2 and "sky" in masks_of(data, data.items[0])


def test_the_larger_training_part_of_voc_is_in_a_folder_of_its_own(tmp_path):
    root = write_voc(tmp_path)
    for name in ("other", "more"):
        save(root / "JPEGImages" / f"{name}.jpg", PHOTO)
        save(root / "SegmentationClassAug" / f"{name}.png", indices(8, 8))
    (root / "ImageSets/Segmentation/train_aug.txt").write_text("other\nmore\n")
    data = open_data_set(root, options=ReadingOptions(split="train_aug"))
    assert data.place.masks.name == "SegmentationClassAug" and len(data.entries) == 2 and not data.lacks
    assert open_data_set(root).place.masks.name == "SegmentationClass"


@pytest.mark.parametrize("name", MAPS)
def test_classes_of_another_benchmark_are_refused(name, tmp_path):
    write, _ = MAPS[name]
    root = write(tmp_path / "data")
    own = find_benchmark(root).layout.classes
    for classes in ("voc", "context59", "coco-object", "coco-stuff", "ade20k", "cityscapes"):
        if classes not in own:
            with pytest.raises(MaskError, match=f"which does not have the classes of {classes}") as refused:
                find_benchmark(root, classes=classes)
            assert own[0] in str(refused.value.hint)


def test_big_refines_the_coarse_masks_and_compares_with_the_true_ones(tmp_path):
    root, output = write_big(tmp_path / "big"), tmp_path / "out"
    data = open_data_set(root)
    assert {item.name: next(iter(masks_of(data, item))) for item in data.items} == {
        "0001": "object", "2007_000033_aeroplane": "aeroplane",
    }  # fmt: skip
    np.testing.assert_array_equal(masks_of(data, data.items[0])["object"], FOX | CAR)
    write_again(data, output)
    scores, _ = Comparison(Places(predicted=output, truth=root)).score_all()
    expected = FOX.sum() / (FOX | CAR).sum()
    assert [score.after.iou for score in scores] == [pytest.approx(expected)] * 2
    (root / "0001_im.jpg").unlink()
    assert "there is no image 0001_im.jpg" in open_data_set(root).items[0].problem[0]


def test_images_of_a_benchmark_without_masks(tmp_path):
    data = open_data_set(write_voc(tmp_path), options=ReadingOptions(zero_shot=True))
    assert data.described == "images without masks" and [item.name for item in data.items] == list(NAMES)
    assert isinstance(data, ImagesAlone) and data.classes.names[8] == "cat"


def test_compared_places_of_a_benchmark_keep_its_classes(tmp_path: Path):
    root = write_context(tmp_path / "data")
    truth = place_of_benchmark(root, None, ReadingOptions(), to_refine=False)
    assert truth is not None and truth.options.classes == "context59"
    stores = open_compared([truth])
    parts = stores[0].read(stores[0].entries["one"])
    assert parts.background is None and parts.ignored is not None and parts.ignored[0, 0]


@pytest.mark.parametrize("below", [".", "trainval", "VOCdevkit/VOC2010/trainval"])
def test_context_before_its_conversion_is_refused(tmp_path, below):
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    (tmp_path / below / "2008_000002.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(MaskError, match="got the MATLAB files") as raised:
        open_data_set(tmp_path)
    assert "pascal_context.py" in (raised.value.hint or "")
