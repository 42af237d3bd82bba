"""CVAT's functions as nuclio calls them: `init_context` once, then `handler` for each request."""

from __future__ import annotations

import base64
import importlib.util
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from segrefine import Refiner, Segmenter, coarse_from_marks
from segrefine.integrations.cvat import crop_mask, outline
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.marks import Box, Marks, Point
from segrefine.runtime.named_mask import box_of
from tests.examples import examples
from tests.integrations.studio import coarse_of, image_of

FOLDER = Path(__file__).parents[2] / "integrations" / "cvat"
IMAGE = base64.b64encode(image_of().read_bytes()).decode()


@dataclass
class Response:
    """nuclio's."""

    body: str
    headers: dict[str, str]
    content_type: str
    status_code: int


@dataclass
class Context:
    """nuclio's, as far as CVAT's functions use it."""

    logger: Any = field(default_factory=lambda: logging.getLogger("nuclio"))
    user_data: Any = field(default_factory=SimpleNamespace)
    Response: type[Response] = Response


class Function:
    """A deployed function."""

    def __init__(self, name: str, environment: pytest.MonkeyPatch, **changed: str) -> None:
        self.description = yaml.safe_load((FOLDER / name / "function.yaml").read_text())
        for each in self.description["spec"]["env"]:
            environment.setenv(each["name"], changed.get(each["name"], str(each["value"])))
        spec = importlib.util.spec_from_file_location(f"nuclio_{name}", FOLDER / name / "main.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._module, self._context = module, Context()
        module.init_context(self._context)

    def __call__(self, **body: Any) -> tuple[int, Any]:
        entry = self.description["spec"]["handler"].partition(":")[2]
        answer = getattr(self._module, entry)(self._context, SimpleNamespace(body=body))
        assert answer.content_type == "application/json"
        return answer.status_code, json.loads(answer.body)


@pytest.fixture(scope="module")
def environment():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def interactor(environment) -> Function:
    return Function("interactor", environment)


@pytest.fixture(scope="module")
def detector(environment) -> Function:
    """It finds what is in the scene of the tests."""
    return Function("detector", environment, SEGREFINE_BUNDLE="demo-gs", SEGREFINE_LABELS="fox,car")


def test_the_descriptions_are_those_that_cvat_reads(interactor, detector):
    for function, kind in ((interactor, "interactor"), (detector, "detector")):
        told = function.description["metadata"]["annotations"]
        assert told["type"] == kind and told["name"] and function.description["spec"]["runtime"].startswith("python:")
        assert "startswith_box" not in told, "CVAT takes any text for true"
    named = [each["name"] for each in json.loads(detector.description["metadata"]["annotations"]["spec"])]
    labels = next(each["value"] for each in detector.description["spec"]["env"] if each["name"] == "SEGREFINE_LABELS")
    assert named == labels.split(",")


def test_points_and_a_box_become_the_mask_that_the_refiner_makes(interactor):
    left, top, right, bottom = box_of(coarse_of())
    x, y = (left + right) // 2, (top + bottom) // 2
    status, answer = interactor(image=IMAGE, pos_points=[[x, y]], neg_points=[[2, 2]],
                                obj_bbox=[[right, bottom], [left, top]])  # fmt: skip
    marks = Marks(boxes=[Box(left, top, right, bottom)], points=[Point(x, y), Point(2, 2, False)])
    image = load_image(image_of())
    with Refiner.from_bundle("photo") as refine:
        [expected] = refine(image, [("object", coarse_from_marks(image, marks))])
    assert status == 200
    np.testing.assert_array_equal(np.array(answer["mask"], bool), expected.mask)
    assert answer["points"] == outline(expected.mask) and len(answer["points"]) > 6


def test_labels_are_found_by_their_names(detector):
    status, found = detector(image=IMAGE)
    with Segmenter.from_bundle("demo-gs") as segment:
        expected = segment(load_image(image_of()), ["fox", "car"]).segments
    there = {label: each for label, each in zip(("fox", "car"), expected, strict=True) if each.mask.any()}
    assert status == 200 and {each["label"] for each in found} == there.keys() and "car" in there
    for each in found:
        assert each["type"] == "mask" and each["mask"] == crop_mask(there[each["label"]].mask)
        assert 0.5 < float(each["confidence"]) <= 1
    assert detector(image=IMAGE, threshold=1.01) == (200, [])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"pos_points": [[5, 5]]}, "an image in base64"),
        ({"image": "no picture", "pos_points": [[5, 5]]}, "an image in base64"),
        ({"image": base64.b64encode(b"no picture").decode(), "pos_points": [[5, 5]]}, "no picture in a known format"),
        ({"image": IMAGE}, "nothing marks the object"),
        ({"image": IMAGE, "pos_points": [[500, 5]]}, "lies outside of the image"),
        ({"image": IMAGE, "pos_points": [5]}, "points as pairs"),
        ({"image": IMAGE, "obj_bbox": [[5, 5]]}, "points as pairs"),
    ],
)
def test_what_cannot_be_used_is_told_with_status_400(interactor, body, told):
    status, answer = interactor(**body)
    assert status == 400 and told in answer["error"]


MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))).filter(np.any)


@given(MASKS)
@settings(max_examples=examples(50))
def test_a_mask_is_stored_as_its_box_with_the_last_pixels(mask):
    *pixels, left, top, right, bottom = crop_mask(mask)
    again = np.zeros_like(mask)
    again[top : bottom + 1, left : right + 1] = np.reshape(pixels, (bottom - top + 1, right - left + 1))
    np.testing.assert_array_equal(again, mask)
    xs, ys = outline(mask)[::2], outline(mask)[1::2]
    assert left <= min(xs) and max(xs) <= right + 1 and top <= min(ys) and max(ys) <= bottom + 1
