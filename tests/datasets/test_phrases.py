"""Panoptic Narrative Grounding and referring expressions on their real layouts, with their faults."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segrefine.datasets.expressions import is_in_split
from segrefine.datasets.items import read_image
from segrefine.datasets.narratives import Narratives
from segrefine.datasets.notation import Notation, ReadingOptions
from segrefine.datasets.opening import open_data_set, place_of_benchmark
from segrefine.datasets.word_count import count_utterance, count_words
from segrefine.errors import MaskError, SegrefineError
from segrefine.evaluation.comparison import Comparison, Places
from segrefine.evaluation.protocols.judging import Judging
from segrefine.evaluation.protocols.table import PROTOCOLS
from tests.datasets.benchmark_sets import SEGMENTS, SKY, narrative, ref, write_expressions, write_narratives
from tests.datasets.trial import CAR, FOX, SIZE, Result, write_again
from tests.examples import examples

NARRATIVES = [
    narrative(1, ("In this image there is", ()), ("a fox", [1]), ("and", ()), ("a car", [70_000])),
    narrative(2, ("The animal and the vehicle", [1, 70_000]), ("below the sky", [9])),
    narrative(1, ("We can see", ()), ("the sky", [9])),
]
REFS = [
    ref(1, 1, 5, "val", (10, "The fox"), (11, "animal on the left")),
    ref(2, 1, 6, "val", (12, "the car")),
    ref(3, 2, 8, "testA", (13, "a fox")),
    ref(4, 2, 8, "train", (14, "fox")),
]


examples_of_junk = settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def judge(protocol: str, predicted: Path, truth: Path, **reading: Any) -> dict:
    judging = Judging(PROTOCOLS[protocol])
    comparison = Comparison(Places(predicted=predicted, truth=truth, reading=ReadingOptions(**reading)))
    judging.protocol.check(comparison.truth_notation)
    _, unread = comparison.score_all(judge=judging.add)
    assert not unread
    return judging.summarise()["after"]


def compared(root: Path, **reading: Any) -> Notation:
    place = place_of_benchmark(root, None, ReadingOptions(**reading), to_refine=False)
    assert place is not None
    return Narratives(place)


@pytest.fixture
def narratives(tmp_path: Path) -> Path:
    return write_narratives(tmp_path / "png", NARRATIVES)


def test_narratives_are_items_with_phrases_and_groups(narratives):
    data = open_data_set(narratives)
    assert data.described == "Panoptic Narrative Grounding"
    assert [item.name for item in data.items] == ["000000000001", "000000000002", "000000000001-2"]
    first, second, third = data.items
    parts = data.read(first, read_image(first))
    assert list(parts.labels.values()) == ["a fox", "a car"] and not parts.unusable
    np.testing.assert_array_equal(parts.masks["000000000001/0"], SEGMENTS[1])
    np.testing.assert_array_equal(parts.masks["000000000001/1"], CAR)  # an id above 65,535
    parts = data.read(second)
    np.testing.assert_array_equal(parts.masks["000000000002/0"], SEGMENTS[1] | CAR)
    assert parts.groups == {
        "000000000002/0": ("plurals", "things"), "000000000002/1": ("singulars", "stuff"),
    }  # fmt: skip
    assert data.read(third).groups == {"000000000001-2/0": ("singulars", "stuff")}


def test_narratives_are_left_out_as_in_the_official_code(tmp_path):
    root = write_narratives(
        tmp_path,
        [
            narrative(1, ("a fox", [1]), caption="a fox and more"),
            narrative(1, ("nothing to see", ())),
            narrative(1, ("it isn't a car", ()), ("a fox", [1]), ("", [9])),
            narrative(7, ("a fox", [1])),
        ],
    )
    data = open_data_set(root)
    assert [item.name for item in data.items] == ["000000000001-3"]
    told = " | ".join(data.remarks)
    assert "1 left out as in the official code: utterances differ from the caption" in told
    assert "1 left out as in the official code: no phrase names a segment" in told
    assert "1 left out as in the official code: a phrase without words" in told
    assert list(data.lacks) == ["1 narratives are of images that panoptic_val2017.json lacks: 000000000007"]


def test_segments_that_are_missing_are_told_and_not_judged(tmp_path):
    root = write_narratives(tmp_path, [narrative(1, ("a fox", [1]), ("a dog", [1, 55]))])
    data = open_data_set(root)
    parts = data.read(data.items[0])
    assert list(parts.masks) == ["000000000001/0"]
    assert parts.unusable["000000000001/1"].endswith("1 of its segments are not in panoptic_val2017.json")


def test_of_two_segments_with_one_box_the_compared_one_is_the_official_one(tmp_path):
    """The official code looks a segment up by its box; what is refined or trained on is the segment itself."""
    root = write_narratives(tmp_path, [narrative(1, ("the sky", [9]))])
    file = root / "annotations/panoptic_val2017.json"
    content = json.loads(file.read_text())
    infos = content["annotations"][0]["segments_info"]
    infos[2]["bbox"] = infos[0]["bbox"]
    file.write_text(json.dumps(content))
    own, official = open_data_set(root), compared(root)
    np.testing.assert_array_equal(own.read(own.items[0]).masks["000000000001/0"], SKY)
    np.testing.assert_array_equal(official.read(official.entries["000000000001"]).masks["000000000001/0"], SEGMENTS[1])


def test_missing_images_fail_alone_and_missing_files_are_named(narratives):
    (narratives / "images/val2017/000000000002.jpg").unlink()
    data = open_data_set(narratives)
    assert [bool(item.problem) for item in data.items] == [False, True, False]
    assert "1 of 3 images are missing: 000000000002" in data.lacks
    png = narratives / "annotations/panoptic_segmentation/val2017/000000000001.png"
    png.unlink()
    with pytest.raises(MaskError, match="000000000001.png: it cannot be read"):
        data.read(data.items[0])
    (narratives / "annotations/panoptic_val2017.json").unlink()
    with pytest.raises(MaskError, match=r"cannot find panoptic_val2017\.json"):
        _ = open_data_set(narratives).items


def test_splits_of_narratives(narratives):
    write_narratives(narratives, [narrative(1, ("a fox", [1]))], split="train2017")
    assert len(open_data_set(narratives, options=ReadingOptions(split="train")).items) == 1
    assert len(open_data_set(narratives).items) == 3
    with pytest.raises(MaskError, match="has no split 'test'"):
        open_data_set(narratives, options=ReadingOptions(split="test"))


def test_predictions_are_written_read_and_judged(narratives, tmp_path):
    output = tmp_path / "out"
    write_again(open_data_set(narratives), output)
    summary = judge("png-ppmn", output, narratives)
    assert summary["phrases"] == {"overall": 5, "singulars": 4, "plurals": 1, "things": 3, "stuff": 2}
    assert summary["accuracy_at_half"] == 1.0 and 0.8 < summary["average_recall"]["overall"] < 1
    content = json.loads((output / "predictions.json").read_text())
    assert {each["phrase"] for each in content["phrases"]} == {
        "a fox", "a car", "the sky", "The animal and the vehicle", "below the sky",
    }  # fmt: skip
    content["phrases"] = [each for each in content["phrases"] if each["phrase"] != "a car"]
    lacking = tmp_path / "lacking.json"
    lacking.write_text(json.dumps(content))  # a phrase that nobody predicted has an empty mask
    assert judge("png-ppmn", lacking, narratives)["accuracy_at_half"] == 0.8


def test_predictions_take_the_place_of_coarse_masks(narratives, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    data = open_data_set(narratives)
    first.mkdir()
    for item in data.items:
        found = {phrase.number: Result(FOX) for phrase in item.masks}
        data.write(item, found, SIZE, first)
    data.finish(first)
    again = open_data_set(narratives, options=ReadingOptions(coarse=str(first)))
    parts = again.read(again.items[1], read_image(again.items[1]))
    assert len(parts.masks) == 2 and all(np.array_equal(np.asarray(mask), FOX) for mask in parts.masks.values())
    write_again(again, second)
    assert (second / "predictions.json").read_bytes() == (first / "predictions.json").read_bytes()
    wrong = ReadingOptions(coarse=str(narratives / "annotations/panoptic_val2017.json"))
    with pytest.raises(MaskError, match="holds no predicted masks of phrases"):
        open_data_set(narratives, options=wrong).read(again.items[0])


def test_predictions_of_other_phrases_are_refused(narratives, tmp_path):
    output = tmp_path / "out"
    write_again(open_data_set(narratives), output)
    other = write_narratives(tmp_path / "other", [narrative(1, ("a dog", [1])), narrative(2, ("a cat", [1]))])
    with pytest.raises(MaskError, match="holds masks of phrases that .* does not have, or has with another text"):
        Comparison(Places(predicted=output, truth=other))
    with pytest.raises(MaskError, match="without their images") as refused:
        _ = open_data_set(output / "predictions.json").items
    assert "--coarse" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"image": "a"}, "expected image, phrase_id, phrase and segmentation"),
        ({"image": "a", "phrase_id": 1.5, "phrase": "x", "segmentation": {}}, "phrases[0]"),
        (None, "phrases[0]"),
    ],
)
def test_damaged_predictions_are_refused(entry, said, narratives, tmp_path):
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps({"phrases": [entry]}))
    with pytest.raises(MaskError) as refused:
        Comparison(Places(predicted=file, truth=narratives))
    assert said in str(refused.value)


def test_expressions_of_a_split(tmp_path):
    folder = write_expressions(tmp_path, REFS)
    data = open_data_set(folder)
    assert data.described == "referring expressions" and [item.name for item in data.items] == ["1"]
    parts = data.read(data.items[0], read_image(data.items[0]))
    assert parts.labels == {"10": "The fox", "11": "animal on the left", "12": "the car"}
    np.testing.assert_array_equal(parts.masks["11"], FOX)
    np.testing.assert_array_equal(parts.masks["12"], CAR)
    assert [item.name for item in open_data_set(folder, options=ReadingOptions(split="testA")).items] == ["2"]
    with pytest.raises(MaskError, match="has no split 'testB'") as refused:
        _ = open_data_set(folder, options=ReadingOptions(split="testB")).items
    assert "testA, train, val" in str(refused.value.hint)
    output = tmp_path / "out"
    write_again(data, output)
    assert judge("refcoco", output, folder) == {
        "phrases": 3, "mean_iou": 1.0, "overall_iou": 1.0,
        "precision": {"0.5": 1.0, "0.6": 1.0, "0.7": 1.0, "0.8": 1.0, "0.9": 1.0},
    }  # fmt: skip


@pytest.mark.parametrize("file", ["grefs(unc).json", "grefs(unc).p"])
def test_expressions_of_several_objects_and_of_none(file, tmp_path):
    refs = [
        ref(1, 1, [5, 6, 7], "val", (1, "both")),  # the crowd is no part of it
        ref(2, 1, [-1], "val", (2, "a whale")),
    ]
    folder = write_expressions(tmp_path, refs, file)
    data = open_data_set(folder)
    parts = data.read(data.items[0])
    np.testing.assert_array_equal(parts.masks["1"], FOX | CAR)
    assert not np.any(np.asarray(parts.masks["2"]))
    output = tmp_path / "out"
    write_again(data, output)
    summary = judge("grefcoco", output, folder)
    assert (summary["giou"], summary["ciou"], summary["no_target_accuracy"]) == (1.0, 1.0, 1.0)


def test_faults_of_expressions_are_told(tmp_path):
    refs = [
        ref(1, 1, 5, "val", (10, "The fox"), (10, "again"), (15, "  ")),
        ref(2, 1, 99, "val", (12, "a ghost")),
        ref(3, 9, 5, "val", (13, "elsewhere")),
        ref(4, 2, 8, "val", (16, "fox")),
    ]
    folder = write_expressions(tmp_path, refs)
    next((tmp_path / "images").rglob("*000002.jpg")).unlink()
    data = open_data_set(folder)
    told = " | ".join(data.lacks)
    assert "1 expressions whose sent_id another one has" in told and "1 expressions without words" in told
    assert "1 expressions of annotations that instances.json lacks" in told and "2 of 3 images are missing" in told
    problems = {item.name: item.problem for item in data.items}
    assert "does not list image 9" in problems["9"][0] and "there is no image COCO" in problems["2"][0]
    parts = data.read(data.items[0])
    assert list(parts.masks) == ["10", "10-2"] and "has no annotation 99" in parts.unusable["12"]


class Evil:
    def __reduce__(self):
        return print, ("ran",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, capsys):
    folder = write_expressions(tmp_path, REFS)
    (folder / "refs(unc).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(MaskError, match="expressions need no code"):
        _ = open_data_set(folder).items
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("own", "wanted", "belongs"),
    [("testA", "testA", True), ("testAB", "testB", True), ("testB", "testA", False), ("val", "val", True),
     ("test", "test", True), ("testA", "test", True), ("train", "val", False)],
)  # fmt: skip
def test_rule_of_splits(own, wanted, belongs):
    assert is_in_split(own, wanted) == belongs


@given(st.lists(st.sampled_from(["In this image", "a dog's", "isn't", "two-wheelers,", "sky.", "won't"]), max_size=6))
def test_words_of_utterances_are_those_of_the_caption(words):
    """However a caption is cut between words, its parts have as many words as the whole."""
    assert sum(map(count_utterance, words)) == count_words(" ".join(words))


def test_words_are_counted_as_bert_does():
    assert count_words("In the image, there's a man.") == 10
    assert count_words("naïve 中文") == 3 and count_words("") == 0
    assert count_utterance("n't") == 2 and count_utterance("isn't") == 3


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**18)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from([1, 5, "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@examples_of_junk
@given(field=st.sampled_from(["image_id", "caption", "segments"]), inner=st.booleans(), junk=JUNK)
def test_damaged_narratives_are_errors_of_the_data(field, inner, junk, tmp_path_factory):
    """Whatever a field of a narrative or segment holds, the narrative is read, left out, or an error says so."""
    said = narrative(1, ("a fox", [1]), ("and a car", [70_000]))
    if inner:
        said["segments"][0][{"image_id": "segment_ids", "caption": "utterance", "segments": "noun"}[field]] = junk
    else:
        said[field] = junk
    root = tmp_path_factory.mktemp("png")
    write_narratives(root, [narrative(2, ("a fox", [1])), said])
    read_or_refuse(root)


@examples_of_junk
@given(field=st.sampled_from(["ref_id", "image_id", "ann_id", "split", "sentences"]), inner=st.booleans(), junk=JUNK)
def test_damaged_expressions_are_errors_of_the_data(field, inner, junk, tmp_path_factory):
    said = ref(2, 1, 6, "val", (12, "the car"))
    if inner:
        said["sentences"][0][{"ref_id": "sent_id", "image_id": "raw"}.get(field, "sent")] = junk
    else:
        said[field] = junk
    root = tmp_path_factory.mktemp("refcoco")
    read_or_refuse(write_expressions(root, [*REFS, said], "refs(unc).json"))


def read_or_refuse(root: Path) -> None:
    try:
        data = open_data_set(root)
        for item in data.items:
            data.read(item)
        assert isinstance(data.lacks, list | tuple) and data.identities()
    except SegrefineError as error:
        assert error.hint
