"""Class lists: what a file of names may hold, and which classes can be looked for. Every surface refuses alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from segrefine.assets import demo_samples
from segrefine.cli import main
from segrefine.cli.asked import find_spans
from segrefine.datasets.class_lists import CLASS_LISTS
from segrefine.datasets.classes import MOST_INDEX, read_classes
from segrefine.errors import MaskError

IMAGE = demo_samples() / "images" / "02-car-erode.png"
UNFINDABLE: list[tuple[Any, str]] = [
    ([], "it names no class"),
    ({}, "it names no class"),
    (["background"], "it names no class"),
    (["banana", "fox"], "a class at index 0, 'banana'"),
    ({"0": "banana"}, "a class at index 0, 'banana'"),
    ({"1": ""}, "the class at index 1 has no name"),
    ({"1": "fox", "4": "  "}, "the class at index 4 has no name"),
    ({"65536": "fox"}, "expected at most 65535, got 65536"),
    ({"9" * 30: "fox"}, "something else than names by index"),
    ({"9" * 5000: "fox"}, "something else than names by index"),
    ({"1": "fox", "01": "car"}, "one index twice"),
    ({"1": "fox", "2": "fox"}, "one name twice"),
    ({"-1": "fox"}, "something else than names by index"),
    ({"1": None}, "something else than names by index"),
    ("fox", "expected a JSON object, got str"),
]


@pytest.mark.parametrize(("content", "message"), UNFINDABLE)
def test_segment_and_batch_refuse_the_same_lists_before_any_image(tmp_path: Path, content: Any, message: str) -> None:
    classes, out = tmp_path / "classes.json", tmp_path / "out"
    classes.write_text(json.dumps(content))
    for words in (
        ["segment", IMAGE, "--zero-shot", "-o", tmp_path / "o.png"],
        ["batch", IMAGE.parent, out, "--zero-shot"],
    ):
        done = CliRunner().invoke(main, [*map(str, words), "--classes", str(classes)])
        assert done.exit_code == 1 and message in done.stderr and "hint:" in done.stderr, done.stderr
        assert str(classes) in done.stderr and "unexpected" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["classes.json"]


INDICES = st.integers(-2, MOST_INDEX + 2).map(str) | st.sampled_from(
    ["01", "1.5", "x", "", "\u0661", "\u00b2", "9" * 40]
)
NAMES = st.text(max_size=6) | st.none() | st.integers() | st.sampled_from(["background", "fox", " "])


@given(st.dictionaries(INDICES, NAMES, max_size=4) | st.lists(NAMES, max_size=4))
def test_any_list_can_be_looked_for_or_is_refused(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "classes.json"
    file.write_text(json.dumps(content))
    try:
        asked = find_spans((), None, str(file))
    except MaskError as error:
        assert error.hint and str(file) in str(error)
    else:
        assert asked.spans and len(asked.spans) == len(asked.numbers) == len(read_classes(file).names)
        assert all(0 < number <= MOST_INDEX for number in asked.numbers)
        assert all(span.text.strip() for span in asked.spans)


@pytest.mark.parametrize("name", CLASS_LISTS)
def test_every_list_that_ships_can_be_looked_for(name: str) -> None:
    CLASS_LISTS[name].check_findable()
