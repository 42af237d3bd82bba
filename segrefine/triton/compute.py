"""Requests of Triton as arrays by name, in and out; the first axis of every array is the batch, and is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import MaskError, PromptError
from segrefine.runtime.batching import PhraseBatching, PhraseRequest
from segrefine.runtime.chain import refine_segments
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.segmentation import Segment, Segmentation
from segrefine.runtime.segmenter import Segmenter
from segrefine.runtime.words.context import read_caption
from segrefine.runtime.zero_shot import ZeroShotSegmenter

Arrays = Mapping[str, NDArray[Any]]
"""A request's or an answer's tensors by name; see `segrefine.signature`."""

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
    rows = [row for each in read if not isinstance(each, Exception) for row in each]
    found = dict(zip(rows, PhraseBatching(segment).run(rows), strict=True))
    return [each if isinstance(each, Exception) else _join([found[row] for row in each]) for each in read]


def find_requests(find: ZeroShotSegmenter, refine: Refiner, requests: Sequence[Arrays]) -> list[Outcome]:
    """The answer to each request, or what is wrong with it: phrases found zero-shot, and their masks refined.

    The phrases of one row compete, and those of other rows must not: rows are computed one after the other.
    """
    read = [_read_rows(request) for request in requests]
    settings = find.settings.for_refining()

    def segment(row: PhraseRequest) -> Segmentation | Exception:
        try:
            found = find(row.image, row.phrases, settings=settings, seed=row.seed)
            return refine_segments(refine, row.image, found, jointly=True, seed=row.seed)
        except Exception as error:  # whatever it is, it is the answer to this request, and to it only
            return error

    return [each if isinstance(each, Exception) else _join([segment(row) for row in each]) for each in read]


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


def _read_rows(request: Arrays) -> list[PhraseRequest] | Exception:
    try:
        rows = zip(request["image"], _phrases(request), _seeds(request), strict=True)
        return [PhraseRequest(image=image, phrases=phrases, seed=seed) for image, phrases, seed in rows]
    except PromptError as error:
        return error


def _phrases(request: Arrays) -> Sequence[Sequence[str]]:
    """The phrases of each row: as they come, or those of its caption, which know it."""
    if ("phrases" in request) == ("caption" in request):
        got = "both" if "phrases" in request else "neither"
        raise PromptError(expected="phrases or a caption", got=got, hint="send one of the two inputs")
    if "phrases" in request:
        return _texts(request["phrases"])
    found = [read_caption(caption) for [caption] in _texts(request["caption"])]
    if len(counts := {len(phrases) for phrases in found}) > 1:
        hint = "send each caption in a request of its own"
        raise PromptError(expected="captions with as many phrases each", got=sorted(counts), hint=hint)
    return found


def _join(rows: Sequence[Segmentation | Exception]) -> Outcome:
    """A request's answer of its rows' in their order; the first thing that is wrong with one, if there is one."""
    whole: list[Sequence[Segment]] = []
    for row in rows:
        if isinstance(row, Exception):
            return row
        whole.append(row.segments)
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
