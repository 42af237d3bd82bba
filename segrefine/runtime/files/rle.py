"""Masks as COCO's compressed run lengths, as `pycocotools` reads and writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import MaskError

_OFFSET, _BITS, _MORE, _SIGN = 48, 5, 0x20, 0x10
_MOST_GROUPS = 7
"""Characters of one number: its differences stay below 2³³."""
_MOST_PIXELS = 2**28
_HINT = "see https://cocodataset.org/#format-data"


def encode_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """`{"size": [H, W], "counts": "…"}` of a mask, bool (H, W)."""
    return {"size": list(mask.shape), "counts": _to_text(count_runs(mask))}


def count_runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths of the runs of a mask, bool (H, W), down its columns; the first is of background and may be 0."""
    flat = np.ascontiguousarray(mask.T).reshape(-1).astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=np.int8(0)))
    return np.diff(changes, prepend=0, append=flat.size)


def decode_rle(rle: Any) -> NDArray[np.bool_]:
    """The mask, bool (H, W), of run lengths, compressed or as a list.

    Raises:
        MaskError: it is no such object, too large, or its runs do not fill its size.
    """
    size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (None, None)
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise MaskError(expected="run lengths with a size [height, width]", got=repr(size), hint=_HINT)
    height, width = size
    if height * width > _MOST_PIXELS:
        raise MaskError(expected=f"a mask of at most {_MOST_PIXELS} pixels", got=f"{width}×{height}", hint=_HINT)
    runs = _read_counts(counts)
    total = sum(map(int, runs))  # Python's numbers: huge runs could wrap around to the right sum
    if (runs < 0).any() or total != height * width:
        expected = f"run lengths of {width * height} pixels, for {width}×{height}"
        raise MaskError(expected=expected, got=total, hint=_HINT)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _read_counts(counts: Any) -> NDArray[np.int64]:
    try:
        if isinstance(counts, str):
            return _from_text(counts)
        if isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts):
            return np.array(counts, np.int64)
    except (ValueError, IndexError, OverflowError):
        pass
    raise MaskError(expected="run lengths as compressed text, or as a list of whole numbers", hint=_HINT)


def _to_text(counts: NDArray[np.int64]) -> str:
    """Each count as its difference from the one two before, in groups of five bits with a sign, low ones first."""
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    groups, used = np.zeros((len(rest), _MOST_GROUPS), np.uint8), np.zeros((len(rest), _MOST_GROUPS), bool)
    going = np.ones(len(rest), bool)
    for place in range(_MOST_GROUPS):
        bits = rest & 0x1F
        rest = rest >> _BITS
        more = going & (rest != np.where(bits & _SIGN, -1, 0))
        groups[:, place], used[:, place] = bits + _MORE * more + _OFFSET, going
        going = more
    return groups[used].tobytes().decode("ascii")


def _from_text(text: str) -> NDArray[np.int64]:
    codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - _OFFSET
    ends = np.flatnonzero(codes & _MORE == 0)
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or ends[-1] != len(codes) - 1:
        raise ValueError("counts")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_GROUPS:
        raise ValueError("counts")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    counts = np.add.reduceat((codes & 0x1F) << (_BITS * place), starts)
    counts -= np.where(codes[ends] & _SIGN, np.int64(1) << (_BITS * lengths), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts
