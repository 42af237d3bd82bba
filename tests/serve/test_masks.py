"""Masks over HTTP: read as everywhere else, however they are encoded and sent."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from numpy.typing import NDArray
from PIL import Image

from segrefine.errors import MaskError
from segrefine.serve.app import create_app
from segrefine.serve.body import parse_body
from segrefine.serve.inputs import read_inputs
from segrefine.serve.limits import Limits
from segrefine.serve.models import read_pictures
from segrefine.serve.parameters import RefineParameters
from tests.examples import examples
from tests.runtime.files.encodings import ALWAYS_READ, Encoded, encode, encoded_masks

MASK = np.zeros((9, 12), bool)
MASK[2:5, 3:9] = True
BLACK = np.dstack([np.zeros((9, 12, 3), np.uint8), MASK * np.uint8(255)])
INDICES = (np.arange(108) % 3).astype(np.uint8).reshape(9, 12)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app([])) as client:
        yield client


def pixels(content: bytes) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("mask", [encode(BLACK), encode(BLACK, "GIF"), encode(MASK * np.uint8(15))])
def test_a_mask_is_shown_as_it_is_read(client: TestClient, mask: bytes) -> None:
    spelled = base64.encodebytes(mask).decode(), base64.urlsafe_b64encode(mask).decode().rstrip("=")
    sent: list[dict[str, Any]] = [{"files": {"mask": mask}}, *({"json": {"mask": text}} for text in spelled)]
    for form in sent:
        answer = client.post("/v1/mask", **form)
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/png", answer.text
        np.testing.assert_array_equal(pixels(answer.content), MASK * 255)


@pytest.mark.parametrize(
    ("form", "code", "got"),
    [
        ({"files": {"mask": encode(INDICES)}}, "bad_mask", "0, 1 and 2"),
        ({"files": {"mask": b"no mask"}}, "bad_image", "known format"),
        ({"files": {"mask": encode(BLACK), "image": encode(BLACK)}}, "bad_field", "image"),
        ({"json": {}}, "bad_field", "none"),
        ({"json": {"mask": "iVBO*w0K"}}, "bad_field", "the character '*'"),
    ],
)
def test_what_is_no_mask_is_told(client: TestClient, form: dict[str, Any], code: str, got: str) -> None:
    refused = client.post("/v1/mask", **form)
    problem = refused.json()
    assert refused.status_code == 422 and problem["code"] == code and got in problem["detail"], refused.text
    assert problem["hint"]


def read_over_http(content: bytes, size: tuple[int, int]) -> NDArray[np.float32]:
    """The mask of a request to refine, as the model gets it."""
    image = encode(np.zeros((*size, 3), np.uint8))
    values = {"image": base64.b64encode(image).decode(), "mask": base64.encodebytes(content).decode(), "label": "fox"}
    form = parse_body("application/json", json.dumps(values).encode())
    pictures, parameters = read_inputs(form, RefineParameters, Limits())
    [mask] = read_pictures(pictures, parameters)[1]
    assert isinstance(mask, np.ndarray)
    return mask


def check(encoded: Encoded) -> None:
    truth = encoded.truth
    try:
        found = read_over_http(encoded.content, (truth.shape[0], truth.shape[1]))
    except MaskError as error:
        assert error.hint
        assert not encoded.how.startswith(ALWAYS_READ) or not (truth > 0.5).any() or (truth > 0.5).all()
    else:
        assert np.abs(found - truth).max() <= encoded.error


@settings(max_examples=examples(200), deadline=None)
@given(encoded_masks())
def test_a_mask_means_the_same_however_it_is_encoded(encoded: Encoded) -> None:
    check(encoded)


@pytest.mark.slow
@settings(max_examples=examples(2000), deadline=None)
@given(encoded_masks())
def test_a_mask_means_the_same_however_it_is_encoded_often(encoded: Encoded) -> None:
    check(encoded)
