"""KServe v2, as Triton's own client speaks it: the masks of the command line, and clear words for bad tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tritonclient.utils import InferenceServerException

from benchmarks.serve.process import Service
from segrefine.assets import demo_samples
from segrefine.cli import main
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import load_mask
from segrefine.serve.problem import Problem
from segrefine.serve.tensors import read_request
from tests.documentation.test_documents import ROOT, blocks
from tests.examples import examples

NAME = "02-car-erode.png"
IMAGE, MASK = (demo_samples() / kind / NAME for kind in ("images", "masks"))


@pytest.fixture
def client(service: Service) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.url.removeprefix("http://")) as opened:
        yield opened


def as_input(name: str, datatype: str, values: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def refine_inputs(binary: bool = True) -> list[triton.InferInput]:
    image = load_image(IMAGE)
    mask = load_mask(MASK, image.shape[:2])
    return [
        as_input("image", "UINT8", image[None], binary=binary),
        as_input("mask", "FP32", mask[None, None], binary=binary),
        as_input("label", "BYTES", np.array([["car"]], object), binary=binary),
    ]


def command(*words: object) -> None:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The mask that the command line gives."""
    file = tmp_path_factory.mktemp("cli") / "mask.png"
    command("refine", IMAGE, MASK, "--label", "car", "--bundle", "demo", "-o", file)
    return np.asarray(Image.open(file)) > 127


def test_the_server_and_its_models_are_described(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.get_server_metadata()["name"] == "segrefine"
    assert client.is_model_ready("demo") and client.is_model_ready("demo", "1") and not client.is_model_ready("other")
    described = client.get_model_metadata("demo-gs")
    assert described["platform"] == "segrefine_gs"
    shapes = {each["name"]: (each["datatype"], each["shape"]) for each in described["inputs"]}
    assert shapes["image"] == ("UINT8", [1, -1, -1, 3]) and shapes["phrases"] == ("BYTES", [1, -1])


@pytest.mark.parametrize("binary", [True, False])
def test_refine_gives_the_mask_of_the_command_line(client, refined, binary):
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("mask", "probability")]
    found = client.infer("demo", refine_inputs(binary), outputs=wanted, request_id="7")
    np.testing.assert_array_equal(found.as_numpy("mask")[0, 0], refined)
    np.testing.assert_array_equal(found.as_numpy("probability")[0, 0] > 0.5, refined)
    told = found.get_response()
    assert told["id"] == "7" and told["model_name"] == "demo" and json.loads(told["parameters"]["warnings"]) == []


def test_outputs_need_not_be_named_and_parameters_are_those_of_the_service(client, refined):
    found = client.infer("demo", refine_inputs(), parameters={"guard": False, "preset": "fast", "settings": "{}"})
    assert found.as_numpy("mask").shape == found.as_numpy("probability").shape == (1, 1, *refined.shape)
    image, _, label = refine_inputs()
    boxed = client.infer("demo", [image, label], parameters={"box": "40,40,90,100", "preset": "fast"})
    assert 0 < boxed.as_numpy("mask").mean() < 0.5


def test_segment_gives_the_masks_of_the_command_line(client, tmp_path):
    named = "--bundle", "demo-gs", "-o", tmp_path / "labels.png", "--maps", tmp_path / "maps"
    command("segment", IMAGE, "the car", "the tree", *named)
    expected = [np.asarray(Image.open(file)) > 127 for file in sorted((tmp_path / "maps").glob("*.mask.png"))]
    texts = as_input("phrases", "BYTES", np.array([["the car", "the tree"]], object))
    found = client.infer("demo-gs", [refine_inputs()[0], texts])
    np.testing.assert_array_equal(found.as_numpy("masks")[0], expected)
    assert found.as_numpy("uncertainty").shape == found.as_numpy("probabilities").shape == (1, 2, 128, 128)


def test_a_caption_gives_the_phrases(client):
    image = refine_inputs()[0]
    caption = as_input("caption", "BYTES", np.array([["a car and [the tree]"]], object))
    texts = as_input("phrases", "BYTES", np.array([["the tree"]], object))
    expected = client.infer("demo-gs", [image, texts]).as_numpy("masks")
    np.testing.assert_array_equal(client.infer("demo-gs", [image, caption]).as_numpy("masks"), expected)
    for inputs in ([image], [image, caption, texts]):
        with pytest.raises(InferenceServerException, match="one of the fields phrases, caption and classes"):
            client.infer("demo-gs", inputs)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda inputs: inputs[1:], "expected an input image"),
        (lambda inputs: [inputs[0], inputs[2]], "expected an input mask"),
        (lambda inputs: [*inputs, as_input("seeds", "INT64", np.zeros((1, 1), np.int64))], "got 'seeds'"),
        (lambda inputs: [as_input("image", "UINT8", np.zeros((2, 8, 8, 3), np.uint8)), *inputs[1:]], "one image in a"),
        (lambda inputs: [as_input("image", "FP32", np.zeros((1, 8, 8, 3), np.float32)), *inputs[1:]], "image as UINT8"),
        (lambda inputs: [as_input("image", "UINT8", np.zeros((1, 0, 8, 3), np.uint8)), *inputs[1:]], "image as UINT8"),
        (lambda inputs: [as_input("image", "UINT8", np.zeros((1, 8, 8, 3), np.uint8)), *inputs[1:]], "8×8 pixels"),
        (lambda inputs: [*inputs[:2], as_input("label", "BYTES", np.array([["a", "b"]], object))], "2 labels"),
    ],
)  # fmt: skip
def test_bad_tensors_are_told_in_words_that_the_client_shows(client, change, told):
    with pytest.raises(InferenceServerException, match="expected .*; ") as caught:
        client.infer("demo", change(refine_inputs()))
    assert told in str(caught.value)


def test_unknown_models_outputs_and_parameters_are_told(client):
    for ask, told in (
        (lambda: client.infer("other", refine_inputs()), "a model that this service has (demo, demo-gs, demo-words)"),
        (lambda: client.infer("demo", refine_inputs(), "2"), "version 1"),
        (lambda: client.infer("demo", refine_inputs(), outputs=[triton.InferRequestedOutput("x")]), "outputs among"),
        (lambda: client.infer("demo", refine_inputs(), parameters={"preset": "slow"}), "slow"),
        (lambda: client.infer("demo", refine_inputs(), parameters={"maps": "overlay"}), "the parameter maps"),
    ):
        with pytest.raises(InferenceServerException) as caught:
            ask()
        assert told in str(caught.value)


def test_it_is_behind_the_key_of_the_service(http: httpx.Client):
    answer = http.post("/v2/models/demo/infer", content=b"{")
    assert answer.status_code == 400 and answer.json()["error"].startswith("expected JSON in UTF-8")


HEAD = {"name": "a", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}
BODIES = [
    (b"[]", None, "a JSON object"),
    (b"{}", None, "a list of inputs"),
    (b'{"inputs": [{"name": "a"}]}', None, "a name and a datatype"),
    (json.dumps({"inputs": [{**HEAD, "shape": [-1]}]}).encode(), None, "a shape of whole numbers"),
    (json.dumps({"inputs": [{**HEAD, "datatype": "FP8"}]}).encode(), None, "a datatype for a"),
    (json.dumps({"inputs": [HEAD]}).encode(), None, "up to 0 bytes for a"),
    (json.dumps({"inputs": [{**HEAD, "shape": [3]}]}).encode() + bytes(8), -8, "12 bytes for a"),
    (json.dumps({"inputs": [HEAD]}).encode() + bytes(9), -9, "tensors that fill the body"),
    (json.dumps({"inputs": [{**HEAD, "datatype": "BYTES"}]}).encode() + b"\x09\0\0\0four", -8, "whole texts for a"),
    (b"{}", 3, "a length of the JSON up to 2"),
]


@pytest.mark.parametrize(("body", "length", "told"), BODIES, ids=[told for *_, told in BODIES])
def test_malformed_bodies_are_told(body, length, told):
    header = None if length is None else str(length if length > 0 else len(body) + length)
    with pytest.raises(Problem) as caught:
        read_request(body, header)
    assert told in str(caught.value) and caught.value.status == 400


@given(st.binary(max_size=200), st.none() | st.integers(0, 250).map(str))
@settings(max_examples=examples(100))
def test_whatever_comes_is_a_request_or_a_problem(body, length):
    try:
        read_request(body, length)
    except Problem as problem:
        assert problem.hint


@given(st.lists(st.text(max_size=6), min_size=1, max_size=4), st.booleans())
@settings(max_examples=examples(50))
def test_texts_come_through_as_the_client_writes_them(texts, binary):
    tensor = as_input("a", "BYTES", np.array([texts], object), binary=binary)
    body, length = triton.InferenceServerClient.generate_request_body([tensor])
    found = read_request(bytes(body), None if length is None else str(length)).tensors["a"]
    assert found.tolist() == [texts]


def test_the_example_of_the_page_runs(service, tmp_path, monkeypatch):
    [example] = blocks(ROOT / "docs/kserve.md", "python")
    monkeypatch.chdir(tmp_path)
    for file, name in ((IMAGE, "photo.png"), (MASK, "coarse.png")):
        shutil.copyfile(file, name)
    names: dict[str, Any] = {}
    assert "127.0.0.1:8000" in example
    here = example.replace("127.0.0.1:8000", service.url.removeprefix("http://"))
    exec(here.replace('"photo"', '"demo"'), names)  # what this service has
    assert names["answer"].as_numpy("mask").shape == (1, 1, 128, 128)
