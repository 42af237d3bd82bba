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
    from segrefine.runtime.pipeline import Refiner
    from segrefine.runtime.segmenter import Segmenter

__version__ = "0.1.0"
__all__ = [
    "AsyncClient", "Bundle", "Client", "Refiner", "SegrefineError", "Segmenter", "__version__", "build_engine",
    "load_engine",
]  # fmt: skip

_HOMES = {
    "AsyncClient": "segrefine.client",
    "Bundle": "segrefine.bundle",
    "Client": "segrefine.client",
    "Refiner": "segrefine.runtime.pipeline",
    "Segmenter": "segrefine.runtime.segmenter",
    "SegrefineError": "segrefine.errors",
    "build_engine": "segrefine.engines",
    "load_engine": "segrefine.engines",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
