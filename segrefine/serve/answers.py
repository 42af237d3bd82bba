"""Answers to requests, made from results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.drawing.pictures import overlay, overlay_labels
from segrefine.runtime.files.output import cut_out
from segrefine.runtime.imaging.grid import cut_filling
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.refinement import Refinement, Round, index_map, label_map
from segrefine.runtime.segmentation import Segment, Segmentation
from segrefine.serve.encode import (
    label_map_png,
    label_map_value,
    mask_png,
    mask_value,
    picture_value,
    soft_value,
)
from segrefine.serve.parameters import RefineParameters, SegmentParameters
from segrefine.serve.stopping import Stopped
from segrefine.serve.work import Answer, Work

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Decode = Callable[[Floats], Pixels]


def refine_answer(image: Pixels, results: Sequence[Refinement], decode: Decode, work: Work) -> Answer:
    """The answer for refined masks: for one its values, for several a list of them.

    Args:
        image: uint8 (H, W, 3).
        results: what was made of each mask.
        decode: latents → picture, such as `Refiner.decode`.
        work: what was asked.
    """
    began = time.perf_counter()
    several = len(results) > 1
    warnings = [f"{each.label}: {doubt}" if several else doubt for each in results for doubt in _doubts(each)]
    labels = label_map(each.probability for each in results)
    seconds = results[0].seconds
    if work.media == "png":
        picture = label_map_png(labels) if several else mask_png(results[0].mask)
        return _picture_answer(picture, warnings, seconds, began)
    if work.media == "tensors":
        tensors = {"mask": _stack(each.mask for each in results),
                   "probability": _stack(each.probability for each in results)}  # fmt: skip
        return _tensor_answer(tensors, warnings, seconds, began)
    asked = cast(RefineParameters, work.parameters)
    entries = [_refined_value(each, decode, asked) for each in results]
    values: dict[str, Any] = {"masks": entries} if several else {**entries[0]}
    values |= {"size": [image.shape[1], image.shape[0]], "warnings": warnings}
    if "overlay" in asked.maps:
        values["overlay"] = picture_value(overlay_labels(image, labels) if several else overlay(image, results[0].mask))
    if "cutout" in asked.maps:
        values["cutout"] = picture_value(cut_out(image, [each.probability for each in results]))
    if "label_map" in asked.maps:
        values["label_map"] = label_map_value(labels)
    return Answer(values=values, picture=None, seconds={**seconds, "write": time.perf_counter() - began})


def _refined_value(result: Refinement, decode: Decode, asked: RefineParameters) -> dict[str, Any]:
    """Return the JSON value of one mask."""
    coarse = result.coarse > 0.5
    values: dict[str, Any] = {
        "label": result.label,
        "mask": mask_value(result.mask, asked.format),
        "changed": float((coarse != result.mask).mean()),
        "iou_with_coarse": iou(coarse, result.mask),
        "evidence_worth": result.evidence_worth,
        "confidence": result.confidence,
        "confidence_threshold": result.confidence_threshold,
        "kept_coarse": result.kept_coarse,
        "kept_share": result.kept_share,
        "crop": result.crop,
    }
    if "probability" in asked.maps:
        values["probability"] = soft_value(result.probability, asked.soft_format)
    if "paper_probability" in asked.maps:
        values["paper_probability"] = soft_value(result.paper_probability, asked.soft_format)
    if "rounds" in asked.maps:
        size = result.fit.size  # of the crop, where it is of one
        values["rounds"] = [_round_value(each, decode, size) for each in result.rounds]
    return values


def _doubts(result: Refinement) -> Iterator[str]:
    if result.distrust:
        yield result.distrust
    if result.evidence_worth == 0:
        yield f"the model says nothing of {result.label!r} in this image: only colours and edges were used"
    if not result.mask.any():
        yield "the refined mask is empty: the model found nothing of the label"


def segment_answer(image: Pixels, result: Segmentation, work: Work) -> Answer:
    """The answer for the masks of phrases.

    Args:
        image: uint8 (H, W, 3).
        result: what was found.
        work: what was asked.

    Raises:
        Stopped: nobody waits for it any more.
    """
    began, size = time.perf_counter(), (image.shape[0], image.shape[1])
    if work.media == "png":
        labels, empty = _labels(result, work, size)
        return _picture_answer(label_map_png(labels), _absences(result, empty, work), result.seconds, began)
    if work.media == "tensors":
        segments = result.segments
        tensors = {"masks": _stack(each.mask for each in segments),
                   "probabilities": _stack(each.probability for each in segments),
                   "uncertainty": _stack(each.uncertainty for each in segments)}  # fmt: skip
        warnings = [_nothing_taken(each.phrase) for each in segments if not each.area]
        return _tensor_answer(tensors, warnings, result.seconds, began)
    asked = cast(SegmentParameters, work.parameters)
    entries = [_segment_value(each, asked, work) for each in result.segments]
    values: dict[str, Any] = {
        "size": [image.shape[1], image.shape[0]],
        "segments": entries,
        "warnings": _absences(result, [each["phrase"] for each in entries if not each["area"]], work),
    }
    if "uncertainty" in asked.maps and any(len(each.samples) == 1 for each in result.segments):
        values["warnings"].append("one sample has no spread: the uncertainty is 0 everywhere; send samples=2 or more")
    if asked.classes:
        indices = asked.indices_of(each.phrase for each in result.segments)
        values["segments"] = [{"label": i, **each} for i, each in zip(indices, entries, strict=True)]
    if "cutout" in asked.maps:
        values["cutout"] = picture_value(cut_out(image, [each.probability for each in result.segments]))
    maps = asked.given_maps()
    if {"label_map", "overlay"} & maps:
        labels, _ = _labels(result, work, size)
        if "label_map" in maps:
            values["label_map"] = label_map_value(labels)
        if "overlay" in maps:
            values["overlay"] = picture_value(overlay_labels(image, labels))
    return Answer(values=values, picture=None, seconds={**result.seconds, "write": time.perf_counter() - began})


def _picture_answer(picture: bytes, warnings: Sequence[str], stages: Mapping[str, float], began: float) -> Answer:
    return Answer(
        values={"warnings": warnings}, picture=picture, seconds={**stages, "write": time.perf_counter() - began}
    )


def _tensor_answer(
    tensors: Mapping[str, NDArray[Any]], warnings: Sequence[str], stages: Mapping[str, float], began: float
) -> Answer:
    values = {"warnings": warnings, "tensors": tensors}
    return Answer(values=values, picture=None, seconds={**stages, "write": time.perf_counter() - began})


def _stack(maps: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Maps (H, W) as one array (1, L, H, W)."""
    return np.stack(list(maps))[None]


def _nothing_taken(phrase: str) -> str:
    return f"nothing was taken for {phrase!r}"


def leave_out_absent(result: Segmentation, work: Work) -> Segmentation:
    """The same without the classes that were not found, if a class list was asked for. Tensors keep all of them."""
    if cast(SegmentParameters, work.parameters).classes is None or work.media == "tensors":
        return result
    return replace(result, segments=tuple(each for each in result.segments if each.mask.any()))


def _absences(result: Segmentation, empty: Sequence[str], work: Work) -> list[str]:
    """The warnings about what was not found. Classes that were not found need none, unless there is no other."""
    classes = cast(SegmentParameters, work.parameters).classes
    if classes is None:
        return list(map(_nothing_taken, empty))
    return [] if result.segments else [f"none of the {len(classes.names)} classes was found in the image"]


def _labels(result: Segmentation, work: Work, size: tuple[int, int]) -> tuple[NDArray[np.uint16], list[str]]:
    """The label map, uint16 (H, W), and the phrases for which nothing is taken.

    Raises:
        Stopped: nobody waits for it any more; of hundreds of phrases in a large image it takes minutes.
    """
    empty = []

    def probabilities() -> Iterator[Floats]:
        for segment in result.segments:
            if work.unwanted:
                raise Stopped
            probability = segment.probability
            if not (probability > 0.5).any():
                empty.append(segment.phrase)
            yield probability

    asked = cast(SegmentParameters, work.parameters)
    indices = asked.indices_of(each.phrase for each in result.segments)
    nothing = asked.classes.nothing if asked.classes else 0
    return index_map(probabilities(), indices, size, nothing), empty


def _segment_value(segment: Segment, asked: SegmentParameters, work: Work) -> dict[str, Any]:
    if work.unwanted:  # hundreds of masks of a large image take minutes to write
        raise Stopped
    mask = segment.mask
    values = {
        "phrase": segment.phrase,
        "mask": mask_value(mask, asked.format),
        "area": float(mask.mean()),
        "confidence": segment.confidence,
    }
    if "probability" in asked.maps:
        values["probability"] = soft_value(segment.probability, asked.soft_format)
    if "uncertainty" in asked.maps:
        values["uncertainty"] = soft_value(segment.uncertainty, asked.soft_format)
    return values


def _round_value(each: Round, decode: Decode, size: tuple[int, int]) -> dict[str, Any]:
    """A round's picture and maps, as grey of 8 bits, on the latent grid, cut to where the image lies in it."""
    discrepancy = each.discrepancy / max(float(each.discrepancy.max()), 1e-9)
    return {
        "timestep": each.timestep,
        "generated": picture_value(cut_filling(decode(each.generated), size)),
        "discrepancy": picture_value(cut_filling(_grey(discrepancy), size)),
        "probability": picture_value(cut_filling(_grey(each.probability), size)),
    }


def _grey(values: Floats) -> Pixels:
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)
