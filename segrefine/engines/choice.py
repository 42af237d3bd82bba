"""What `--backend auto` means on this machine: the best backend that is installed and can run here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from segrefine.bundle import Bundle
from segrefine.engines.engine import EnginePrecision, parse_device
from segrefine.engines.hardware import gpu_identity
from segrefine.engines.tensorrt import Library
from segrefine.engines.tensorrt.libraries import check_runtime
from segrefine.errors import SegrefineError

AUTO = "auto"
"""The name that stands for the best backend here; the output says which one that is."""


def choose_backend(backend: str, bundle: str | Path, device: str, precision: EnginePrecision | None = None) -> str:
    """The backend that runs a bundle: the named one, or for "auto" the best one here.

    On a GPU that is TensorRT, if the bundle has engines of every graph for this GPU; else ONNX Runtime. A CPU never
    takes the place of a GPU. On the CPU it is ONNX Runtime, which is the faster one for a single mask; OpenVINO if only
    that is installed, or for bfloat16.

    Args:
        backend: one of `BACKENDS`, or "auto".
        bundle: the bundle's folder.
        device: "cpu", "cuda" or "cuda:N".
        precision: what the engines are to compute in.

    Raises:
        BackendError: there is no such device.
    """
    if backend != AUTO:
        return backend
    kind, index = parse_device(device)
    if kind == "cuda":
        return next((each for each in get_args(Library) if _has_engines(Path(bundle), each, index)), "onnxruntime")
    alone = find_spec("onnxruntime") is None and find_spec("openvino") is not None
    return "openvino" if alone or precision == "bf16" else "onnxruntime"


def _has_engines(path: Path, library: Library, index: int) -> bool:
    """Whether the library runs here, and the bundle has an engine of each graph for this GPU, stale or not."""
    folder = path / "engines" / library
    if not folder.is_dir():
        return False
    try:
        check_runtime(library, index)
        gpu, graphs = gpu_identity(index), Bundle.open(path).manifest.graphs
    except SegrefineError:
        return False
    built = (
        any(gpu in sidecar.stem.rpartition("_")[2].split("-") for sidecar in (folder / graph).glob("*_sm*.json"))
        for graph in graphs
    )
    return all(built)
