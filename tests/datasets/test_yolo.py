"""YOLO's text with polygons: read, refined, written, and read again as the same pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from segrefine.cli import main
from segrefine.datasets.notation import ReadingOptions
from segrefine.datasets.opening import open_data_set
from segrefine.datasets.pieces import draw_pieces, split_into_pieces
from segrefine.errors import MaskError
from segrefine.runtime.files.mask import CoarseMask
from tests.datasets.trial import CAR, FOX, SIZE, Result, read
from tests.examples import examples

NAMES = "path: .\nnc: 2\nnames: ['fox', 'car']\n"
FOX_LINE = "0 0.1 0.2 0.43 0.2 0.43 0.49 0.1 0.49"
CAR_BOX = "1 0.75 0.625 0.375 0.41"


def data_set(folder: Path, *lines: str, names: str = NAMES, file: str = "data.yaml"):
    for name in ("a", "sub/a", "sub/b"):
        (folder / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "labels" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    if (folder / "masks").is_dir():
        (folder / "masks").rmdir()
    (folder / file).write_text(names)
    return folder


def test_polygons_in_and_out(folder, tmp_path):
    dataset = open_data_set(data_set(folder, FOX_LINE, CAR_BOX, "1 0.6 0.5 0.9 0.5 0.9 0.8"))
    assert dataset.title == "YOLO" and [item.name for item in dataset.items] == ["a", "sub/a", "sub/b"]
    reading = read(dataset, dataset.items[0])
    assert [each.label for each in reading.masks] == ["fox", "car"]
    assert reading.unusable == ["line 2 (car): it has a box and no polygon"]
    ring = FOX.copy()
    ring[6:9, 6:10] = False
    dataset.write(dataset.items[0], {0: Result(ring), 2: Result(CAR)}, SIZE, tmp_path / "out")
    dataset.finish(tmp_path / "out")
    assert CAR_BOX in (tmp_path / "out/labels/a.txt").read_text().splitlines()
    (tmp_path / "out/images").symlink_to(folder / "images")
    again = open_data_set(tmp_path / "out")
    masks = read(again, again.items[0]).masks
    found = {label: np.logical_or.reduce([m.foreground for m in masks if m.label == label]) for label in ("fox", "car")}
    np.testing.assert_array_equal(found["fox"], ring)
    np.testing.assert_array_equal(found["car"], CAR)


@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
@settings(max_examples=examples(150), deadline=None)
def test_pieces_are_exactly_the_mask(mask):
    pieces = split_into_pieces(mask)
    np.testing.assert_array_equal(draw_pieces(pieces, mask.shape), mask)
    assert all(len(piece) >= 3 for piece in pieces)


def test_a_plain_object_is_one_piece():
    disc = np.hypot(*np.ogrid[-10:11, -14:15]) < 9
    assert len(split_into_pieces(disc)) == 1


def test_boxes_are_refined_when_asked(folder):
    dataset = open_data_set(data_set(folder, CAR_BOX), options=ReadingOptions(boxes=True))
    [mask] = read(dataset, dataset.items[0]).masks
    assert mask.label == "car" and isinstance(mask.mask, CoarseMask)
    assert mask.mask.confusion[11:19, 19:29].all() and not mask.mask.confusion[:, :14].any()


@pytest.mark.parametrize(
    "names",
    [
        "names: ['fox', 'car']", "names: [fox, car]", 'names: ["fox", car]', "names: {0: fox, 1: car}",
        "names:\n  0: fox\n  1: car\n", "names:\n  - fox\n  - car\ntrain: images\n", "names:\n- fox\n- 'car'\nnc: 2",
        "nc: 2\nnames:\n  # the classes\n  0: fox  # red\n  1: car\n",
        "names: {'0': 'fox', \"1\": car}", "names:\n  '0': fox\n  \"1\": car\n", "names: ['fox', 'car']  # 2",
    ],
)  # fmt: skip
def test_names_as_programs_write_them(folder, names):
    dataset = open_data_set(data_set(folder, FOX_LINE, "1 0.6 0.5 0.9 0.5 0.9 0.8", names=names))
    assert [each.label for each in read(dataset, dataset.items[0]).masks] == ["fox", "car"]


def test_other_names(folder):
    dataset = open_data_set(data_set(folder, FOX_LINE, names="fox\ncar\n", file="classes.txt"))
    assert [each.label for each in read(dataset, dataset.items[0]).masks] == ["fox"]
    dataset = open_data_set(folder, options=ReadingOptions(classes="coco-object"))
    assert [each.label for each in read(dataset, dataset.items[0]).masks] == ["person"]


@pytest.mark.parametrize(
    ("names", "words"),
    [("nc: 2", "has no names"),
     ("names: *other", "names no class|has no name"), ("names: [fox, fox]", "one name twice"),
     ("names: [[fox]]", "not read")],
)  # fmt: skip
def test_names_that_are_refused(folder, names, words):
    with pytest.raises(MaskError, match=words) as caught:
        dataset = open_data_set(data_set(folder, CAR_BOX, names=names))
        read(dataset, dataset.items[0])
    assert caught.value.hint


def test_nothing_names_the_classes(folder):
    data_set(folder, FOX_LINE)
    (folder / "data.yaml").unlink()
    with pytest.raises(MaskError, match="nothing names the classes"):
        open_data_set(folder)


@pytest.mark.parametrize(
    ("line", "words"),
    [("0 3 4 5 6 7 8", "line 2: expected a class number and shares"),
     ("0 0.1 0.2 x 0.3 0.4 0.5", "expected a class number"),
     ("7 0.1 0.2 0.3 0.4 0.5 0.6", "line 2: class 7 has no name"), ("fox 0.1 0.2 0.3 0.4 0.5 0.6", "expected a class")],
)  # fmt: skip
def test_lines_that_are_refused_say_why(folder, line, words):
    dataset = open_data_set(data_set(folder, FOX_LINE))
    (folder / "labels/sub/b.txt").write_text(f"{FOX_LINE}\n{line}\n")
    with pytest.raises(MaskError, match=words) as caught:
        read(dataset, dataset.items[2])
    assert caught.value.hint and "sub/b.txt" in str(caught.value)


@pytest.mark.parametrize("change", [("0 0.1", "fox 0.1"), ("0 0.1", "-1 0.1"), (" ", ","), ("0.2", "nan")])
def test_texts_alone_that_are_no_lines_say_why(folder, change):
    dataset = open_data_set(data_set(folder, FOX_LINE.replace(*change)))
    with pytest.raises(MaskError, match="line 1: expected a class number"):
        read(dataset, dataset.items[0])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_texts_as_programs_on_windows_write_them(folder, encoding):
    for file in sorted(data_set(folder, FOX_LINE).rglob("*.[ty]*")):
        if file.suffix in (".txt", ".yaml"):
            file.write_bytes(file.read_text().encode(encoding))
    dataset = open_data_set(folder)
    assert [each.label for each in read(dataset, dataset.items[0]).masks] == ["fox"]


def test_a_class_number_as_numpy_writes_it(folder, tmp_path):
    dataset = open_data_set(data_set(folder, f"0.000000{FOX_LINE[1:]}", file="dataset.yaml"))
    assert [each.label for each in read(dataset, dataset.items[0]).masks] == ["fox"]
    dataset.write(dataset.items[0], {0: Result(FOX)}, SIZE, tmp_path / "out")
    dataset.finish(tmp_path / "out")
    assert (tmp_path / "out/dataset.yaml").read_text() == NAMES


@pytest.mark.parametrize("line", ["0 0.1 0.2 0.3", "0 0.1 0.2 0.3 0.4 0.5", "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7"])
def test_lines_without_a_polygon_are_counted(folder, line):
    dataset = open_data_set(data_set(folder, FOX_LINE, line))
    reading = read(dataset, dataset.items[0])
    assert len(reading.masks) == 1 and "expected three corners or more" in reading.unusable[0]


def test_compared_by_class(folder, tmp_path):
    data_set(folder, FOX_LINE)
    truth = data_set(tmp_path / "truth", "0 0.1 0.2 0.43 0.2 0.43 0.34 0.1 0.34")
    images = ("--images", str(folder / "images"))
    done = CliRunner().invoke(main, ["eval", str(folder), str(truth), "--json", *images])
    values = json.loads(done.stdout)
    assert done.exit_code == 0 and values["notation"] == "YOLO", done.output
    assert values["iou_of_classes"] == {"fox": pytest.approx(5 / 8, abs=0.1)}
