"""Diffusion-based segmentation from a PyTorch checkpoint to a low-latency engine.

The names below are loaded when they are first used, so that ``import segrefine`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segrefine.bundle import Bundle
    from segrefine.client import AsyncClient, Client
    from segrefine.engines import build_engine, load_engine
    from segrefine.errors import SegrefineError
    from segrefine.runtime.files.image import load_image
    from segrefine.runtime.files.marks import Marks, coarse_from_marks
    from segrefine.runtime.files.mask import load_mask
    from segrefine.runtime.files.output import save_mask
    from segrefine.runtime.named_mask import to_detections
    from segrefine.runtime.pipeline import Refiner
    from segrefine.runtime.segmenter import Segmenter
    from segrefine.runtime.words.narrative import split_caption
    from segrefine.runtime.zero_shot import ZeroShotSegmenter
    from segrefine.settings import G4SegSettings, GsSettings, ZeroShotSettings

__version__ = "0.1.0"
__all__ = [
    "AsyncClient", "Bundle", "Client", "G4SegSettings", "GsSettings", "Marks", "Refiner", "SegrefineError",
    "Segmenter", "ZeroShotSegmenter", "ZeroShotSettings", "__version__", "build_engine", "coarse_from_marks",
    "load_engine", "load_image", "load_mask", "save_mask", "split_caption", "to_detections",
]  # fmt: skip

_HOMES = {
    "AsyncClient": "segrefine.client",
    "Bundle": "segrefine.bundle",
    "Client": "segrefine.client",
    "G4SegSettings": "segrefine.settings",
    "GsSettings": "segrefine.settings",
    "Marks": "segrefine.runtime.files.marks",
    "Refiner": "segrefine.runtime.pipeline",
    "SegrefineError": "segrefine.errors",
    "Segmenter": "segrefine.runtime.segmenter",
    "ZeroShotSegmenter": "segrefine.runtime.zero_shot",
    "ZeroShotSettings": "segrefine.settings",
    "build_engine": "segrefine.engines",
    "coarse_from_marks": "segrefine.runtime.files.marks",
    "load_engine": "segrefine.engines",
    "load_image": "segrefine.runtime.files.image",
    "load_mask": "segrefine.runtime.files.mask",
    "save_mask": "segrefine.runtime.files.output",
    "split_caption": "segrefine.runtime.words.narrative",
    "to_detections": "segrefine.runtime.named_mask",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
