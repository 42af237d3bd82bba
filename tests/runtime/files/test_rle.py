from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from segrefine.errors import MaskError
from segrefine.runtime.files.rle import decode_rle, encode_rle

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@given(MASKS)
def test_round_trip(mask: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(decode_rle(encode_rle(mask)), mask)


@given(MASKS)
def test_is_what_pycocotools_writes(mask: NDArray[np.bool_]) -> None:
    oracle = pytest.importorskip("pycocotools.mask")
    expected = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_rle(mask) == {"size": expected["size"], "counts": expected["counts"].decode()}


def test_long_runs() -> None:
    mask = np.zeros((3000, 5000), bool)
    mask[100:2900, 7:4990] = True
    mask[:, 2500] = False
    oracle = pytest.importorskip("pycocotools.mask")
    assert encode_rle(mask)["counts"] == oracle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(decode_rle(encode_rle(mask)), mask)


@pytest.mark.parametrize(
    "rle",
    [{}, {"size": [2, 2], "counts": ""}, {"size": [2, 2], "counts": "9"}, {"size": [2, 2], "counts": "é"},
     {"size": [2], "counts": "4"}, {"size": [2, 2], "counts": "ooooooooo1"}, {"size": [0, 0], "counts": "0"},
     {"size": [40, 50], "counts": [*[2**62] * 3, 2**62 + 2000]}, {"size": [2, 2], "counts": [-1, 5]}],
)  # fmt: skip
def test_malformed(rle: dict[str, object]) -> None:
    with pytest.raises(MaskError, match="expected|make up"):
        decode_rle(rle)
