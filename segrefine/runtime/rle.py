"""Masks as COCO's compressed run lengths, as `pycocotools` reads and writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import MaskError

_OFFSET, _BITS, _MORE, _SIGN = 48, 5, 0x20, 0x10
_MOST_GROUPS = 7
"""Characters of one number: its differences stay below 2³³."""


def encode_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """`{"size": [H, W], "counts": "…"}` of a mask, bool (H, W); runs go down the columns, background first."""
    flat = np.ascontiguousarray(mask.T).reshape(-1).astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=np.int8(0)))
    counts = np.diff(changes, prepend=0, append=flat.size)
    return {"size": list(mask.shape), "counts": _to_text(counts)}


def decode_rle(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """The mask, bool (H, W), of what `encode_rle` wrote.

    Raises:
        MaskError: it is malformed, or its runs do not add up to its size.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = _from_text(rle["counts"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise MaskError(f"expected size and counts of COCO run lengths, got {error!r}") from error
    if min(height, width) < 1 or (counts < 0).any() or counts.sum() != height * width:
        raise MaskError(f"expected runs over {height * width} pixels, got {int(counts.sum())}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


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
