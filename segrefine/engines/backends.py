"""The one table of backends. A new one is a folder with a `Backend` object, and a line here."""

from __future__ import annotations

from collections.abc import Iterable

from segrefine.engines.backend import Backend
from segrefine.engines.engine import EnginePrecision
from segrefine.engines.onnxruntime.backend import ONNX_RUNTIME
from segrefine.engines.onnxruntime.quantizer import OnnxRuntimeQuantizer
from segrefine.engines.onnxruntime.session import open_plain_session
from segrefine.engines.openvino.backend import OPENVINO
from segrefine.engines.quantizer import Quantizer
from segrefine.engines.tensorrt.backend import TENSORRT, TENSORRT_RTX
from segrefine.errors import BackendError

BACKENDS: dict[str, Backend] = {
    "onnxruntime": ONNX_RUNTIME,
    "openvino": OPENVINO,
    "tensorrt": TENSORRT,
    "tensorrt-rtx": TENSORRT_RTX,
}
"""The backends by name, in the order in which they are listed."""

DEFAULT = ONNX_RUNTIME
"""The backend that runs where nothing better is known, and that checks exported graphs by `open_plain_session`."""

QUANTIZER: Quantizer = OnnxRuntimeQuantizer()
"""The quantizer of `export --quantize`."""

__all__ = [
    "BACKENDS", "DEFAULT", "QUANTIZER", "find_backend", "join_names", "needs_gpu", "open_plain_session", "taking",
    "with_precision",
]  # fmt: skip


def find_backend(name: str) -> Backend:
    """The backend of a name.

    Raises:
        BackendError: there is none; the hint lists what there is.
    """
    if name not in BACKENDS:
        raise BackendError(f"there is no backend {name!r}", hint=f"choose one of: {', '.join(BACKENDS)}")
    return BACKENDS[name]


def needs_gpu(backend: str, device: str) -> bool:
    """Return whether engines of a backend run on a GPU: on this device they do, or the backend runs nowhere else.

    Raises:
        BackendError: there is no such backend.
    """
    return device.startswith("cuda") or "cpu" not in find_backend(backend).devices


def taking(option: str) -> list[str]:
    """The names of the backends that take an option of `BuildOptions`."""
    return [name for name, backend in BACKENDS.items() if backend.build_options.get(option)]


def with_precision(precision: EnginePrecision) -> list[str]:
    """The names of the backends that can compute in a precision that graphs do not have."""
    return [name for name, backend in BACKENDS.items() if precision in backend.precisions]


def join_names(names: Iterable[str]) -> str:
    """Names in a sentence: "a", "a or b", "a, b or c"."""
    *rest, last = names
    return f"{', '.join(rest)} or {last}" if rest else last
