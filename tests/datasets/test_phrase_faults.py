"""Faults of data sets of phrases: those of another benchmark, files that are missing, ids that come twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segrefine.datasets.expressions import find_expressions
from segrefine.datasets.notation import ReadingOptions
from segrefine.datasets.opening import open_compared, open_data_set, place_of_benchmark
from segrefine.errors import MaskError, SegrefineError
from segrefine.evaluation.protocols.table import PROTOCOLS
from tests.datasets.benchmark_sets import ref, write_expressions, write_narratives
from tests.datasets.test_phrases import NARRATIVES, REFS


@pytest.fixture
def narratives(tmp_path: Path) -> Path:
    return write_narratives(tmp_path / "png", NARRATIVES)


def test_a_protocol_of_other_phrases_is_refused(tmp_path, narratives):
    """Every protocol of phrases, and every kind of phrases, by the names of their files and folders."""
    data = {"png": narratives}
    for name, file in (("refcoco", "refs(unc).p"), ("refcoco+", "refs(unc).p"), ("refcocog", "refs(google).p"),
                       ("grefcoco", "grefs(unc).json")):  # fmt: skip
        folder = write_expressions(tmp_path / file / name, [ref(1, 1, [5], "val", (10, "fox"))], file)
        data[name] = folder.rename(folder.parent / name)
    umd = write_expressions(tmp_path / "umd", [ref(1, 1, 5, "val", (10, "fox"))], "refs(umd).p")
    data["refcocog of another folder"] = umd.rename(umd.parent / "some")
    judges = {
        "png-bcv": ["png"], "png-ppmn": ["png"], "refcoco": ["refcoco", "refcoco+", "refcocog"],
        "grefcoco": ["grefcoco"],
    }  # fmt: skip
    for own, root in data.items():
        place = place_of_benchmark(root, None, ReadingOptions(), to_refine=False)
        assert place is not None
        truth = open_compared([place])[0]
        assert list(truth.benchmarks) == [own.partition(" ")[0]]
        for protocol, takes in judges.items():
            if own.partition(" ")[0] in takes:
                PROTOCOLS[protocol].check(truth)
                continue
            with pytest.raises(SegrefineError, match=f"--protocol {protocol} is for"):
                PROTOCOLS[protocol].check(truth)


def test_the_folder_above_may_hold_one_set_of_expressions(tmp_path):
    write_expressions(tmp_path, REFS)
    assert [item.name for item in open_data_set(tmp_path).items] == ["1"]
    assert find_expressions(tmp_path) == tmp_path / "refcoco/refs(unc).p"
    (tmp_path / "refcoco").rename(tmp_path / "refcoco+")
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    write_expressions(tmp_path, REFS)
    with pytest.raises(MaskError, match=r"holds refcoco, refcoco\+") as refused:
        open_data_set(tmp_path)
    assert str(tmp_path / "refcoco") in str(refused.value.hint)


def test_missing_panoptic_pictures_and_ids_that_come_twice_are_told(narratives):
    (narratives / "annotations/panoptic_segmentation/val2017/000000000002.png").unlink()
    file = narratives / "annotations/panoptic_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"].append(content["annotations"][0])
    content["annotations"][1]["segments_info"].append(content["annotations"][1]["segments_info"][0])
    file.write_text(json.dumps(content))
    told = open_data_set(narratives).lacks
    assert any(each.startswith("1 of 2 panoptic PNGs are missing in ") for each in told)
    assert "2 images of panoptic_val2017.json have two entries of one id; the last counts" in told


def test_ids_of_instances_that_come_twice_are_told(tmp_path):
    folder = write_expressions(tmp_path, REFS)
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"].append(content["annotations"][1] | {"id": "5"})
    content["images"].append(content["images"][0])
    (folder / "instances.json").write_text(json.dumps(content))
    told = open_data_set(folder).lacks
    assert "1 ids that instances.json has twice among its images; the last entry counts" in told
    assert "1 ids that instances.json has twice among its annotations; the last entry counts" in told


def test_an_annotation_without_a_mask_leaves_out_its_expressions_alone(tmp_path):
    folder = write_expressions(tmp_path, REFS)
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][0]["segmentation"] = []
    (folder / "instances.json").write_text(json.dumps(content))
    data = open_data_set(folder)
    parts = data.read(data.items[0])
    assert list(parts.masks) == ["12"] and list(parts.unusable) == ["10", "11"]
    assert "'The fox': annotation 5 has no mask" in parts.unusable["10"]


def test_a_split_that_a_file_of_narratives_does_not_have_is_refused(narratives):
    file = narratives / "annotations/png_coco_val2017.json"
    for split in (None, "val", "val2017"):
        assert len(open_data_set(file, options=ReadingOptions(split=split)).items) == 3
    with pytest.raises(MaskError, match="has no split 'train'") as refused:
        open_data_set(file, options=ReadingOptions(split="train"))
    assert "the file is of val2017" in str(refused.value.hint)
