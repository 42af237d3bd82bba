"""Specifications of tensors, components and shape profiles."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segrefine.errors import ShapeError
from segrefine.spec import ComponentSpec, ShapeProfile, TensorSpec, parse_sizes

UNET = ComponentSpec(
    "unet",
    (
        TensorSpec("sample", "float32", ("batch", 4, "height", "width")),
        TensorSpec("timestep", "int64", ("batch",)),
        TensorSpec("foreground", "float32", ("batch", 1, "height", "width")),
    ),
    (TensorSpec("out_sample", "float32", ("batch", 4, "height", "width")),),
)


def feeds(**changed: Any) -> dict[str, Any]:
    good = {
        "sample": np.zeros((2, 4, 8, 6), np.float32),
        "timestep": np.zeros(2, np.int64),
        "foreground": np.zeros((2, 1, 8, 6), np.float32),
    }
    return good | changed


def test_good_feeds_pass() -> None:
    UNET.check_feeds(feeds())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"sample": np.zeros((2, 4, 8, 6))},
            r"input 'sample': expected float32 \(batch, 4, height, width\); got float64",
        ),
        ({"sample": np.zeros((2, 3, 8, 6), np.float32)}, r"'sample': .* got float32 \(2, 3, 8, 6\)"),
        ({"timestep": np.int64(3)}, r"'timestep': expected int64 \(batch\), got int64 \(\)"),
        ({"timestep": np.zeros(3, np.int64)}, "'timestep': expected batch=2, as 'sample' has; got batch=3"),
        (
            {"foreground": np.zeros((2, 1, 8, 8), np.float32)},
            "'foreground': expected width=6, as 'sample' has; got width=8",
        ),
        ({"mask": np.zeros(1)}, "unet: it has no input 'mask'"),
    ],
)
def test_wrong_feeds_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        UNET.check_feeds(feeds(**changed))


def test_missing_feed_is_named() -> None:
    incomplete = feeds()
    del incomplete["timestep"]
    with pytest.raises(ShapeError, match="input 'timestep' is missing") as caught:
        UNET.check_feeds(incomplete)
    assert caught.value.hint == "its inputs are sample, timestep, foreground"


def test_component_survives_json() -> None:
    assert ComponentSpec.from_dict(json.loads(json.dumps(UNET.to_dict()))) == UNET


@pytest.mark.parametrize(
    ("dtype", "shape"), [("float64", (1,)), ("float32", (0,)), ("float32", (1.5,)), ("int64", (True,))]
)
def test_impossible_tensors_are_refused(dtype: Any, shape: Any) -> None:
    with pytest.raises(ShapeError, match="tensor 'x'"):
        TensorSpec("x", dtype, shape)


def test_sizes_are_read_by_symbol() -> None:
    assert parse_sizes("batch=1, height = 64") == {"batch": 1, "height": 64}


@pytest.mark.parametrize("text", ["", "batch", "batch=", "=1", "batch=-1", "batch=1.5", "batch=1,batch=2", "batch=1,,"])
def test_unreadable_shapes_are_shown(text: str) -> None:
    with pytest.raises(ShapeError, match="cannot read the shapes") as caught:
        parse_sizes(text)
    assert repr(text) in str(caught.value)


def test_profiles_of_other_symbols_are_refused() -> None:
    with pytest.raises(ShapeError, match="with the same symbols"):
        ShapeProfile({"batch": 1}, {"batch": 1, "height": 2}, {"batch": 1})


@given(st.tuples(*[st.integers(0, 5)] * 3))
def test_profile_is_ordered(sizes: tuple[int, int, int]) -> None:
    least, best, most = ({"batch": size} for size in sizes)
    if 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        assert ShapeProfile(least, best, most).opt == best
    else:
        with pytest.raises(ShapeError, match="expected 1 ≤ min ≤ opt ≤ max"):
            ShapeProfile(least, best, most)
