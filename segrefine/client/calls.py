"""What is sent, and when it is sent again; no network."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.errors import ImageError, MaskError, PromptError, ServiceError, SettingsError
from segrefine.runtime.image import check_image, read_bytes

ImageSource = str | Path | bytes | NDArray[np.uint8]
"""A file, its bytes, or uint8 (H, W, 3) RGB."""

MaskSource = str | Path | bytes | NDArray[Any]
"""A file, its bytes, or bool or float (H, W) in [0, 1]."""

_RETRIED = (429, 503)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request: its path, the fields and the files of its form."""

    path: str
    fields: Mapping[str, Any]
    files: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When a request is sent again.

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
    image: ImageSource, mask: MaskSource, label: str, seed: int, model: str | None, maps: Sequence[str],
    settings: Mapping[str, Any],
) -> Call:  # fmt: skip
    """The request that refines a mask."""
    fields = {"label": label, "seed": seed, "model": model, "maps": list(maps), "soft_format": "npy", **settings}
    return Call(path="/v1/refine", fields=_given(fields), files={"image": _image_file(image), "mask": _mask_file(mask)})


def segment_call(
    image: ImageSource, phrases: Sequence[str], seed: int, model: str | None, maps: Sequence[str],
    settings: Mapping[str, Any],
) -> Call:  # fmt: skip
    """The request for the masks of phrases."""
    if isinstance(phrases, str):
        raise PromptError(f"expected a list of phrases, got the text {phrases!r}", hint='such as ["the red car"]')
    fields = {"phrases": list(phrases), "seed": seed, "model": model, "maps": list(maps), "soft_format": "npy"}
    return Call(path="/v1/segment", fields=_given({**fields, **settings}), files={"image": _image_file(image)})


def refusal(status: int, document: object) -> ServiceError:
    """The error for an answer that is a problem document, or should be one."""
    if not isinstance(document, dict) or "detail" not in document:
        return ServiceError(f"the service answered with {status}, and not with a problem document", status=status,
                            hint="check the address: something else may listen there")  # fmt: skip
    return ServiceError(
        f"{document.get('code')}: {document['detail']}",
        hint=document.get("hint"),
        status=status,
        code=document.get("code"),
        request_id=document.get("request_id"),
    )


def key_header(api_key: str | None) -> dict[str, str]:
    """The header that carries a service's key."""
    if api_key and not api_key.isascii():
        raise SettingsError("api_key: expected ASCII, which is all that a header holds")
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, [])}


def _image_file(image: ImageSource) -> bytes:
    if not isinstance(image, np.ndarray):
        return read_bytes(image)
    check_image(image)
    return _png(Image.fromarray(image))


def _mask_file(mask: MaskSource) -> bytes:
    if not isinstance(mask, np.ndarray):
        return read_bytes(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "bf" or not mask.size:
        raise MaskError(f"expected a mask bool or float (H, W), got {mask.dtype} {mask.shape}")
    if mask.dtype == bool:
        return _png(Image.fromarray(mask.astype(np.uint8) * 255))
    buffer = io.BytesIO()
    np.save(buffer, mask.astype(np.float32))
    return buffer.getvalue()


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    try:
        picture.save(buffer, "PNG", compress_level=1)
    except (OSError, ValueError) as error:
        raise ImageError(f"the picture cannot be written as PNG: {error}") from error
    return buffer.getvalue()
