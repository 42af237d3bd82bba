"""Whatever bytes come: reading them gives inputs, or a problem, and nothing else."""

from __future__ import annotations

import base64
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.serve.fuzz import hostile_request
from segrefine.errors import SegrefineError
from segrefine.serve.body import Form, parse_body
from segrefine.serve.inputs import decode_base64, read_inputs
from segrefine.serve.limits import Limits
from segrefine.serve.parameters import RefineParameters, SegmentParameters
from segrefine.serve.problem import Problem, problem_of
from tests.examples import examples

LATIN = st.text(st.characters(max_codepoint=255))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner), max_leaves=8
)
NAMES = (
    st.sampled_from([*SegmentParameters.model_fields, *RefineParameters.model_fields, "image", "mask", "scribble"])
    | st.text()
)


def check(form: Form) -> None:
    for kind in (RefineParameters, SegmentParameters):
        try:
            read_inputs(form, kind, Limits())
        except (Problem, SegrefineError) as error:
            problem = problem_of(error)
            assert problem.status in (404, 413, 422)
            assert json.loads(problem.to_json("id"))["detail"]


@given(st.sampled_from(["application/json", "multipart/form-data; boundary=b", "a/b", ""]) | LATIN, st.binary())
def test_bytes(kind: str, body: bytes) -> None:
    try:
        check(parse_body(kind, body))
    except Problem as problem:
        assert problem.status in (400, 415) and problem.to_json("id")


@given(st.dictionaries(NAMES, JSON))
@settings(max_examples=examples(300))
def test_json_of_any_kind(values: dict[str, object]) -> None:
    check(Form(values=values))


@given(
    st.dictionaries(NAMES, st.lists(st.text(), min_size=1)),
    st.dictionaries(NAMES, st.lists(st.binary(max_size=40), min_size=1)),
)
@settings(max_examples=examples(300))
def test_forms_of_any_kind(values: dict[str, list[str]], files: dict[str, list[bytes]]) -> None:
    check(Form(values=values, files=files, multipart=True))


@pytest.mark.parametrize("seed", range(300))
def test_bodies_of_hostile_requests(seed: int) -> None:
    head, _, body = hostile_request(random.Random(seed)).partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    kind = next((line[14:] for line in lines if line.startswith("Content-Type: ")), "")
    try:
        check(parse_body(kind, body))
    except Problem as problem:
        assert problem.status in (400, 415)


def test_every_problem_says_what_to_do() -> None:
    for error in (MemoryError(), RuntimeError("x"), Problem(400, "a", "b", "c", "d")):
        document = problem_of(error).to_dict("id")
        assert all(document[name] for name in ("code", "expected", "got", "hint", "title", "detail"))
    assert "secret" not in json.dumps(problem_of(RuntimeError("secret")).to_dict("id"))


@given(
    st.binary(min_size=1), st.booleans(), st.booleans(), st.sampled_from(["", "\n", "\r\n", " "]), st.integers(1, 80)
)
def test_base64_in_every_spelling(content: bytes, url_safe: bool, padded: bool, separator: str, width: int) -> None:
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(content).decode()
    text = text if padded else text.rstrip("=")
    lines = separator.join(text[first : first + width] for first in range(0, len(text), width)) + separator
    assert decode_base64(lines, "image") == content


@pytest.mark.parametrize("start", ["data:image/png;base64,", "\n DATA:image/png;charset=utf-8;base64,\n"])
def test_base64_in_an_address(start: str) -> None:
    assert decode_base64(f"{start}AQID", "mask") == b"\1\2\3"


@pytest.mark.parametrize(
    ("text", "got"), [("iVBO*w0K", "the character '*'"), ("iVBOR", "5 characters"), ("a=b=", "the character '='")]
)
def test_what_is_no_base64_is_named(text: str, got: str) -> None:
    with pytest.raises(Problem) as caught:
        decode_base64(text, "image")
    assert caught.value.status == 422 and got in caught.value.got and "image in base64" in caught.value.expected
