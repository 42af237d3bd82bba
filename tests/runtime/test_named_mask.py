"""Results with a mask: what they measure, write and hand over, on masks of any shape."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from segrefine import Refiner, to_detections
from segrefine.assets import demo_bundle
from segrefine.client.replies import RefineReply, SegmentPart
from segrefine.errors import MaskError, OutputError
from segrefine.runtime.files.mask import load_mask
from segrefine.runtime.imaging.grid import fit_to_grid
from segrefine.runtime.named_mask import NamedMask
from segrefine.runtime.segmentation import Segment, Segmentation

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))


@dataclass(frozen=True, eq=False)
class Named(NamedMask):
    name: str
    mask: NDArray[np.bool_]
    probability: NDArray[np.float32] | None = None
    confidence: float | None = None


@given(MASKS)
def test_area_box_and_run_lengths_are_those_of_pycocotools(mask: NDArray[np.bool_]) -> None:
    result = Named("fox", mask)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert result.area == int(coco.area(theirs))
    assert result.rle["counts"].encode() == theirs["counts"] and result.rle["size"] == list(mask.shape)
    left, top, width, height = coco.toBbox(theirs)
    assert (result.box or (0, 0, 0, 0)) == (left, top, left + width, top + height)
    np.testing.assert_array_equal(np.asarray(result.to_pil()) > 0, mask)


@given(st.lists(st.sampled_from(["fox", "car", "tree"]), max_size=5), st.data())
def test_detections_are_the_masks_in_their_order(names: list[str], data: st.DataObject) -> None:
    shape = (7, 9)
    sure = data.draw(st.booleans())
    results = [Named(name, data.draw(arrays(np.bool_, shape)), confidence=0.5 if sure else None) for name in names]
    found = to_detections(results)
    assert found["xyxy"].shape == (len(names), 4)
    assert found["data"]["class_name"].tolist() == names
    numbers = dict(zip(names, found["class_id"].tolist(), strict=True))
    assert [numbers[name] for name in names] == found["class_id"].tolist() and len(set(numbers.values())) == len(
        numbers
    )
    assert (found["confidence"] is not None) == (sure or not names)
    for result, box, mask in zip(results, found["xyxy"], found["mask"], strict=True):
        np.testing.assert_array_equal(mask, result.mask)
        assert tuple(box) == (result.box or (0, 0, 0, 0))


def test_masks_of_two_images_are_no_detections() -> None:
    with pytest.raises(MaskError, match="expected masks of one image, got masks of 2×3, 4×3 pixels"):
        to_detections([Named("fox", np.ones((3, 4), bool)), Named("car", np.ones((3, 2), bool))])


def test_supervision_takes_them() -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 2:4, 3:7] = True
    results = [Named("fox", masks[0], confidence=0.9), Named("car", masks[1], confidence=0.1)]
    detections = supervision.Detections(**to_detections(results))
    assert len(detections) == 2 and detections["class_name"].tolist() == ["fox", "car"]
    assert detections.area.tolist() == [8, 0]


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    mask, soft = np.eye(5, 7, dtype=bool), np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)
    result = Named("fox", mask, soft)
    result.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.png", (5, 7)), mask)
    for name, tolerance in (("soft.png", 1 / 65535), ("soft.npy", 0)):
        result.save(tmp_path / name, soft=True)
        np.testing.assert_allclose(load_mask(tmp_path / name, (5, 7)), soft, atol=tolerance)
    with pytest.raises(OutputError, match=r"ends in \.png"):
        result.save(tmp_path / "mask.jpg")
    with pytest.raises(MaskError, match="not known") as caught:
        Named("fox", mask).save(tmp_path / "none.png", soft=True)
    assert caught.value.hint and not (tmp_path / "none.png").exists()


def test_results_say_what_they_are_in_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    image, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), bool)
    mask[5:10, 5:15] = True
    with caplog.at_level(logging.INFO, "segrefine"), Refiner.from_bundle(demo_bundle()) as refine:
        refined = refine(image, mask, "a secret label")
    samples = np.ones((2, 8, 8), np.float32)
    segment = Segment(phrase="the fox", samples=samples, mean=samples[0], fit=fit_to_grid(image, side=16, multiple=8))
    whole = Segmentation(segments=(segment, segment), seconds={})
    reply = RefineReply(label="fox", mask=mask, probability=None, warnings=(), values={"confidence": 0.5})
    part = SegmentPart(phrase="fox", mask=mask, confidence=0.75, probability=None, uncertainty=None)
    for result in (refined, *refined.rounds, segment, whole, reply, part):
        assert len(repr(result)) < 200 and "array" not in repr(result) and "\n" not in repr(result)
    assert repr(refined).startswith("Refinement('a secret label', 30×20, area ")
    assert repr(segment) == "Segment('the fox', 30×20, 2 samples, confidence 1.000)"
    assert repr(reply) == "RefineReply('fox', 30×20, area 50, confidence 0.500)"
    assert whole.to_detections()["class_id"].tolist() == [0, 0] and whole.to_pil().size == (30, 20)
    assert refined == refined and hash(refined)  # by identity: arrays have no one answer
    assert "opened" in caplog.text and "mask 1 of 1, 30×20" in caplog.text and "secret" not in caplog.text


def test_label_maps_are_saved(tmp_path: Path) -> None:
    fit = fit_to_grid(np.zeros((16, 16, 3), np.uint8), side=16, multiple=8)
    low, high = np.zeros((1, 8, 8), np.float32), np.ones((1, 8, 8), np.float32)
    whole = Segmentation(
        segments=tuple(Segment(phrase=name, samples=maps, mean=maps[0], fit=fit) for name, maps in
                       (("fox", low), ("car", high))), seconds={},
    )  # fmt: skip
    whole.save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as picture:
        assert np.unique(np.asarray(picture)).tolist() == [2]
