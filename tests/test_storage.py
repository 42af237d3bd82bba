"""JSON files as programs on Windows write them: one reader takes the marks of every encoding of Unicode."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segrefine.errors import MaskError
from segrefine.storage import read_json, read_json_object

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda values: st.lists(values) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), values),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(content=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES), ascii_only=st.booleans())
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_reads_alike(
    tmp_path_factory: pytest.TempPathFactory, encoding: str, content: object, ascii_only: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / f"{encoding}.json"
    file.write_bytes(json.dumps(content, ensure_ascii=ascii_only).encode(encoding))
    assert read_json(file, MaskError, hint="") == content


@pytest.mark.parametrize("content", [b"", codecs.BOM_UTF8, b"\xff", codecs.BOM_UTF8 + b"\xff", b"{", b'"\xc3"'])
def test_what_is_no_json_is_an_error_of_the_given_class(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(MaskError, match=r"a\.json: it cannot be read as JSON") as caught:
        read_json_object(tmp_path / "a.json", MaskError, hint="what to do")
    assert caught.value.hint == "what to do"
