"""Run lengths and polygons, against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segrefine.datasets.polygons import draw_polygons
from segrefine.errors import MaskError
from segrefine.runtime.files.rle import count_runs, decode_rle, encode_rle
from tests.examples import examples

oracle = pytest.importorskip("pycocotools.mask")
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(mask=SIZES.flatmap(lambda size: arrays(bool, size)))
@settings(max_examples=examples(200), deadline=None)
def test_run_lengths_are_those_of_pycocotools(mask):
    ours, theirs = encode_rle(mask), oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert ours == {"size": list(theirs["size"]), "counts": theirs["counts"].decode()}
    np.testing.assert_array_equal(decode_rle(ours), mask)
    np.testing.assert_array_equal(decode_rle({"size": list(mask.shape), "counts": count_runs(mask).tolist()}), mask)


def test_long_runs():
    mask = np.zeros((900, 1300), bool)
    mask[100:700, 200:900] = True
    theirs = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(mask)["counts"] == theirs["counts"].decode()
    np.testing.assert_array_equal(decode_rle(encode_rle(mask)), mask)


corner = st.floats(-15, 55, width=32) | st.integers(-5, 45)


@given(
    size=SIZES,
    polygons=st.lists(st.lists(st.tuples(corner, corner), min_size=3, max_size=8), min_size=1, max_size=3),
)
@settings(max_examples=examples(400), deadline=None)
def test_polygons_are_drawn_as_pycocotools_draws_them(size, polygons):
    flat = [[float(n) for point in polygon for n in point] for polygon in polygons]
    theirs = oracle.decode(oracle.merge(oracle.frPyObjects(flat, *size))) > 0
    np.testing.assert_array_equal(draw_polygons(flat, size), theirs)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (None, "expected run lengths with a size"),
        ({"size": [3, 4]}, "compressed text, or as a list"),
        ({"size": [0, 4], "counts": []}, "size"),
        ({"size": [10**6, 10**6], "counts": []}, "a mask of at most"),
        ({"size": [3, 4], "counts": [5, 8]}, "run lengths of 12 pixels, for 4×3; got 13"),
        ({"size": [3, 4], "counts": [14, -2]}, "list of whole numbers"),
        ({"size": [3, 4], "counts": "  "}, "compressed text"),
        ({"size": [3, 4], "counts": "PPPPPPPPPPPPPP"}, "compressed text|make up"),
        ({"size": [3, 4], "counts": "4P"}, "compressed text"),
    ],
)
def test_run_lengths_that_are_none(rle, message):
    with pytest.raises(MaskError, match=message):
        decode_rle(rle)


@pytest.mark.parametrize(
    "polygons",
    [[], {}, [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5, "6"]], [[1, 2, 3, 4, 5, float("nan")]], [3]],
)
def test_polygons_that_are_none(polygons):
    with pytest.raises(MaskError, match="polygon"):
        draw_polygons(polygons, (5, 5))
