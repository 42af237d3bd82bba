"""Contents of requests, and the rules for retrying them; no network."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segrefine.errors import ImageError, PromptError, ServiceError, SettingsError
from segrefine.runtime.files.image import ImageLike, as_image, read_bytes
from segrefine.runtime.files.mask import MaskLike, as_mask

_RETRIED = (429, 503)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request: its path, the fields and the files of its form."""

    path: str
    fields: Mapping[str, Any]
    files: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Rules for retrying a request.

    Attributes:
        retries: how often, at most, after an answer of 429 or 503, or none at all.
        longest: seconds between two attempts, at most, whatever the service asks for.
    """

    retries: int = 8
    longest: float = 30.0
    _random: random.Random = field(default_factory=random.Random, repr=False)

    def wait(self, attempt: int, status: int | None, retry_after: str | None) -> float | None:
        """Seconds until the next attempt; None where there is none.

        Args:
            attempt: how many there were.
            status: of the answer; None where the connection failed.
            retry_after: what the answer said.
        """
        if attempt > self.retries or status not in (None, *_RETRIED):
            return None
        asked = float(retry_after) if retry_after and retry_after.isdecimal() else 0.25 * 2 ** (attempt - 1)
        return min(self.longest, asked) * self._random.uniform(0.75, 1.25)  # so that not all come back at once


def refine_call(
    image: ImageLike, masks: Sequence[tuple[str, MaskLike | None]], seed: int, model: str | None, maps: Sequence[str],
    settings: Mapping[str, Any],
) -> Call:  # fmt: skip
    """The request that refines masks, each with its label; None where marks among the settings take a mask's place."""
    fields = {"label": [label for label, _ in masks], "seed": seed, "model": model, "maps": list(maps)}
    files = [("image", _image_file(image)), *(("mask", _mask_file(mask)) for _, mask in masks if mask is not None)]
    return Call(path="/v1/refine", fields=_given({**fields, "soft_format": "npy", **settings}), files=files)


def segment_call(
    image: ImageLike, phrases: Sequence[str], seed: int, model: str | None, maps: Sequence[str],
    settings: Mapping[str, Any],
) -> Call:  # fmt: skip
    """The request for the masks of phrases."""
    if isinstance(phrases, str):
        raise PromptError(expected="a list of phrases", got=f"the text {phrases!r}", hint='such as ["the red car"]')
    fields = {"phrases": list(phrases), "seed": seed, "model": model, "maps": list(maps), "soft_format": "npy"}
    return Call(path="/v1/segment", fields=_given({**fields, **settings}), files=[("image", _image_file(image))])


def refusal(status: int, document: object) -> ServiceError:
    """The error for an answer that is a problem document, or should be one."""
    if not isinstance(document, dict) or "detail" not in document:
        return ServiceError(f"the service answered with {status}, and not with a problem document", status=status,
                            hint="check the address: something else may listen there")  # fmt: skip
    return ServiceError(
        "" if "expected" in document else document["detail"],
        subject=document.get("code"),
        expected=document.get("expected"),
        got=document.get("got"),
        hint=document.get("hint"),
        status=status,
        code=document.get("code"),
        request_id=document.get("request_id"),
    )


def key_header(api_key: str | None) -> dict[str, str]:
    """The header that carries a service's key."""
    if api_key and not api_key.isascii():
        raise SettingsError(subject="api_key", expected="ASCII, which is all that a header holds")
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a form: objects as JSON, and marks as texts with commas."""
    return {name: _as_field(name, value) for name, value in fields.items() if value not in (None, [])}


def _as_field(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) or (name == "classes" and not isinstance(value, str)):
        return json.dumps(value)
    if name in ("box", "point") and not isinstance(value, str):
        groups = [value] if isinstance(value[0], int | float) else value
        return [each if isinstance(each, str) else ",".join(f"{float(number):g}" for number in each) for each in groups]
    return value


def _image_file(image: ImageLike) -> bytes:
    """The file of a picture: its own where it is one, else a PNG."""
    if isinstance(image, str | Path | bytes):
        return read_bytes(image)
    return _png(Image.fromarray(as_image(image)))


def _mask_file(mask: MaskLike) -> bytes:
    """The file of a mask: its own where it is one, else a PNG of a hard mask or a .npy of a soft one."""
    if isinstance(mask, str | Path | bytes):
        return read_bytes(mask)
    probability = as_mask(mask)
    hard = probability > 0.5
    if (probability == hard).all():
        return _png(Image.fromarray(hard.astype(np.uint8) * 255))
    buffer = io.BytesIO()
    np.save(buffer, probability)
    return buffer.getvalue()


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    try:
        picture.save(buffer, "PNG", compress_level=1)
    except (OSError, ValueError) as error:
        raise ImageError(f"the picture cannot be written as PNG: {error}") from error
    return buffer.getvalue()
