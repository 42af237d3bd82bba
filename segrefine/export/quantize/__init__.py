"""Eight-bit denoisers: weights and activations as integers, held against float32 by the masks that come out."""

from __future__ import annotations

from segrefine.export.quantize.bundles import quantize_bundle
from segrefine.export.quantize.scenes import read_scenes

__all__ = ["quantize_bundle", "read_scenes"]
