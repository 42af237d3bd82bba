"""Label latents → masks: the torch-free half of the label codecs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.bundle import EXPORT_HINT
from segrefine.errors import BundleError

Floats = NDArray[np.float32]
Decode = Callable[[Floats], Floats]
"""Label latents (B, C, h, w) → masks (B, H', W') in [0, 1], at the codec's own resolution."""


def label_decoder(codec: Mapping[str, Any], image_decoder: Decode) -> Decode:
    """The decoder of the codec that a manifest describes.

    Args:
        codec: `Manifest.label_codec`.
        image_decoder: scaled latents (B, c, h, w) → images (B, 3, H, W) in about [-1, 1]; used where masks are images.

    Raises:
        BundleError: it describes none.
    """
    try:
        kind, scale, fold = codec["kind"], float(codec["scale"]), int(codec.get("fold", 1))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"it is malformed: {error!r}", subject="label_codec", hint=EXPORT_HINT) from error
    match kind:
        case "area":
            return lambda latents: decode_area(latents, fold=fold, scale=scale)
        case "vae":
            return lambda latents: _to_share(image_decoder(latents / np.float32(scale)).mean(1))
        case _:
            raise BundleError(subject="label_codec", expected="kind area or vae", got=repr(kind), hint=EXPORT_HINT)


def decode_area(latents: Floats, *, fold: int, scale: float) -> Floats:
    """Masks (B, h · fold, w · fold) in [0, 1] of latents (B, fold², h, w) in ± scale, whose channels are cells."""
    batch, _, height, width = latents.shape
    cells = latents.reshape(batch, fold, fold, height, width).transpose(0, 3, 1, 4, 2)
    return _to_share(cells.reshape(batch, height * fold, width * fold) / np.float32(scale))


def _to_share(values: Floats) -> Floats:
    """[-1, 1] → [0, 1], clipped."""
    return ((values + 1) / 2).clip(0, 1)
