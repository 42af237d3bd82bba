"""Answers of the service as arrays."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.errors import ServiceError
from segrefine.runtime.files.rle import decode_rle
from segrefine.runtime.named_mask import NamedMask, describe, to_detections

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RefineReply(NamedMask):
    """A refined mask.

    Attributes:
        label: what the mask shows.
        mask: bool (H, W).
        probability: float32 (H, W) in [0, 1], where it was asked for.
        warnings: what should be known of it.
        values: the whole answer as it came.
    """

    label: str
    mask: Mask
    probability: Floats | None
    warnings: tuple[str, ...]
    values: Mapping[str, Any]

    def __repr__(self) -> str:
        return describe(self, self.mask.shape, f"area {self.area}")

    @property
    def name(self) -> str:
        """The label."""
        return self.label

    @property
    def confidence(self) -> float | None:
        """Return the guard's confidence in the mask, in [0, 1]; None if the guard did not judge it."""
        confidence: float | None = self.values.get("confidence")
        return confidence


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SegmentPart(NamedMask):
    """The mask of a phrase.

    Attributes:
        phrase: the words.
        mask: bool (H, W).
        confidence: in (0.5, 1]; 0 where the mask is empty.
        probability: float32 (H, W) in [0, 1], where it was asked for.
        uncertainty: float32 (H, W) in [0, 0.5], where it was asked for.
    """

    phrase: str
    mask: Mask
    confidence: float
    probability: Floats | None
    uncertainty: Floats | None

    def __repr__(self) -> str:
        return describe(self, self.mask.shape, f"area {self.area}")

    @property
    def name(self) -> str:
        """The phrase."""
        return self.phrase


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentReply:
    """The masks of phrases, in their order; see `RefineReply`."""

    segments: tuple[SegmentPart, ...]
    warnings: tuple[str, ...]
    values: Mapping[str, Any] = field(repr=False)

    def to_detections(self) -> dict[str, Any]:
        """All segments as arguments of `supervision.Detections`; see `segrefine.to_detections`."""
        return to_detections(self.segments)


def read_refine_reply(values: Mapping[str, Any]) -> RefineReply:
    """The reply of /v1/refine.

    Raises:
        ServiceError: it is malformed.
    """
    try:
        return RefineReply(
            label=values["label"],
            mask=_mask(values["mask"]),
            probability=_soft(values.get("probability")),
            warnings=tuple(values["warnings"]),
            values=values,
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _malformed(error) from error


def read_refine_replies(values: Mapping[str, Any]) -> tuple[RefineReply, ...]:
    """The reply of /v1/refine, by mask; the warnings, of all masks, are with each.

    Raises:
        ServiceError: it is malformed.
    """
    whole = {name: value for name, value in values.items() if name != "masks"}
    try:
        return tuple(read_refine_reply({**whole, **each}) for each in values.get("masks", [values]))
    except TypeError as error:
        raise _malformed(error) from error


def read_segment_reply(values: Mapping[str, Any]) -> SegmentReply:
    """The reply of /v1/segment.

    Raises:
        ServiceError: it is malformed.
    """
    try:
        segments = tuple(
            SegmentPart(
                phrase=each["phrase"],
                mask=_mask(each["mask"]),
                confidence=each["confidence"],
                probability=_soft(each.get("probability")),
                uncertainty=_soft(each.get("uncertainty")),
            )
            for each in values["segments"]
        )
        return SegmentReply(segments=segments, warnings=tuple(values["warnings"]), values=values)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _malformed(error) from error


def _mask(value: Mapping[str, Any]) -> Mask:
    if value["format"] == "rle":
        return decode_rle({"size": value["size"], "counts": value["counts"]})
    with Image.open(io.BytesIO(base64.b64decode(value["data"])), formats=["PNG"]) as picture:
        return np.asarray(picture) > 127


def _soft(value: Mapping[str, Any] | None) -> Floats | None:
    if value is None:
        return None
    array: Floats = np.load(io.BytesIO(base64.b64decode(value["data"])), allow_pickle=False)
    return array


def _malformed(error: Exception) -> ServiceError:
    hint = "let the client and the service be of one version"
    return ServiceError(f"the service's answer is malformed: {error!r}", hint=hint)
