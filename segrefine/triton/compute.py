"""Requests of Triton as arrays by name, in and out; the first axis of every array is the batch, and is kept."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import MaskError, PromptError, SegrefineError
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmentation import Segment
from segrefine.runtime.segmenter import Segmenter

Arrays = Mapping[str, NDArray[Any]]
"""A request's or an answer's tensors by name; see `segrefine.triton.signature`."""

Outcome = Arrays | Exception


def refine_requests(refine: Refiner, requests: Sequence[Arrays]) -> list[Outcome]:
    """The answer to each request, or what is wrong with it.

    The denoiser of a refinement sees a batch for each image, so that images are computed one after the other.
    """
    return [_attempt(refine, request) for request in requests]


def segment_requests(segment: Segmenter, requests: Sequence[Arrays]) -> list[Outcome]:
    """The answer to each request, or what is wrong with it.

    The phrases of all rows of one size with one seed are one batch of the denoiser.
    """
    read = [_read_rows(request) for request in requests]
    groups: dict[Hashable, list[_Row]] = {}
    for row in (row for rows in read if not isinstance(rows, Exception) for row in rows):
        groups.setdefault((row.image.shape, row.seed), []).append(row)
    found: dict[_Row, Sequence[Segment] | Exception] = {}
    for group in groups.values():
        found |= zip(group, _segment_rows(segment, group), strict=True)
    return [rows if isinstance(rows, Exception) else _join([found[row] for row in rows]) for rows in read]


@dataclass(frozen=True, eq=False)
class _Row:
    image: NDArray[np.uint8]
    phrases: list[str]
    seed: int


def _attempt(refine: Refiner, request: Arrays) -> Outcome:
    try:
        rows = zip(request["image"], request["mask"], _texts(request["label"]), _seeds(request), strict=True)
        found = [refine(image, _pair(labels, masks), seed=seed) for image, masks, labels, seed in rows]
    except Exception as error:  # whatever it is, it is the answer to this request, and to it only
        return error
    return {"mask": np.stack([[each.mask for each in row] for row in found]),
            "probability": np.stack([[each.probability for each in row] for row in found])}  # fmt: skip


def _pair(labels: Sequence[str], masks: NDArray[np.float32]) -> list[tuple[str, NDArray[np.float32]]]:
    if len(labels) != len(masks):
        raise MaskError(
            expected="one label for each mask",
            got=f"{len(labels)} labels and {len(masks)} masks",
            hint="mask is (rows, labels, H, W), label is (rows, labels)",
        )
    return list(zip(labels, masks, strict=True))


def _read_rows(request: Arrays) -> list[_Row] | Exception:
    try:
        rows = zip(request["image"], _texts(request["phrases"]), _seeds(request), strict=True)
        return [_Row(image, phrases, seed) for image, phrases, seed in rows]
    except PromptError as error:
        return error


def _segment_rows(segment: Segmenter, rows: Sequence[_Row]) -> list[Sequence[Segment] | Exception]:
    """What was found for each of some rows of one size and seed; one that fails does not take the others along."""
    pictures: dict[bytes, list[_Row]] = {}  # each is encoded once
    for row in rows:
        pictures.setdefault(row.image.tobytes(), []).append(row)
    asked = [(same[0].image, [phrase for row in same for phrase in row.phrases]) for same in pictures.values()]
    try:
        results = segment.segment_images(asked, seed=rows[0].seed)
    except Exception as error:
        if len(rows) > 1 and isinstance(error, SegrefineError):
            return [_segment_rows(segment, [row])[0] for row in rows]
        return [error] * len(rows)
    found: dict[_Row, Sequence[Segment]] = {}
    for same, result in zip(pictures.values(), results, strict=True):
        ends = np.cumsum([len(row.phrases) for row in same])
        found |= {row: result.segments[end - len(row.phrases) : end] for row, end in zip(same, ends, strict=True)}
    return [found[row] for row in rows]


def _join(rows: Sequence[Sequence[Segment] | Exception]) -> Outcome:
    """A request's answer of its rows' in their order; the first thing that is wrong with one, if there is one."""
    whole: list[Sequence[Segment]] = []
    for row in rows:
        if isinstance(row, Exception):
            return row
        whole.append(row)
    return {
        "masks": np.stack([[each.mask for each in row] for row in whole]),
        "probabilities": np.stack([[each.probability for each in row] for row in whole]),
        "uncertainty": np.stack([[each.uncertainty for each in row] for row in whole]),
    }


def _texts(values: NDArray[Any]) -> list[list[str]]:
    try:
        return [[each.decode() for each in row] for row in values.tolist()]
    except UnicodeDecodeError as error:
        raise PromptError(expected=f"texts in UTF-8: {error}", hint="encode them so") from error


def _seeds(request: Arrays) -> list[int]:
    if "seed" not in request:
        return [0] * len(request["image"])
    return [int(seed) for (seed,) in request["seed"].tolist()]
