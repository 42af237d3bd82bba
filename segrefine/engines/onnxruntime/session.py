"""Sessions of ONNX Runtime: on exactly the device asked for, or not at all."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from segrefine.engines.engine import parse_device
from segrefine.engines.hardware import version_numbers
from segrefine.errors import BackendError, EngineError, MissingDependencyError
from segrefine.spec import ComponentSpec

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_LEAST_FOR_CUDA = "1.26"
"""Earlier versions run attention on the CPU, whatever the provider. The extra asks for this version too."""


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        hint = 'install it: pip install "segrefine[cpu]" (or "segrefine[cuda]" for a GPU)'
        raise MissingDependencyError("ONNX Runtime is not installed", hint=hint) from error
    return onnxruntime  # type: ignore[no-any-return]  # it comes without types


def session_options(ort: ModuleType, *, optimized: bool) -> Any:
    """The options that every session has; an optimised graph is not optimised again."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # its warnings are about graphs, not about anything that a user can mend
    # Threads of a session that wait for work by spinning hold the cores that the next component of a chain needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Its plan of which value may take whose place doubles the time to load, and holds a third more memory: with shapes
    # that are not known beforehand it lets go of values later than a run that frees each after its last use.
    options.enable_mem_reuse = False
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_DISABLE_ALL if optimized else level.ORT_ENABLE_ALL
    return options


def check_provider(device: str) -> str:
    """The execution provider of a device, once ONNX Runtime has it.

    Raises:
        BackendError: it does not, the device is unknown, or for CUDA ONNX Runtime is too old.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    kind, _ = parse_device(device)
    provider, ort = _PROVIDERS[kind], import_onnxruntime()
    if provider not in ort.get_available_providers():
        raise _lacking(provider, device)
    if kind == "cuda" and version_numbers(ort.__version__) < version_numbers(_LEAST_FOR_CUDA):
        raise BackendError(
            "it is too old for CUDA, and computes attention on the CPU",
            subject="ONNX Runtime",
            expected=f"version {_LEAST_FOR_CUDA} or later",
            got=ort.__version__,
            hint='install a newer one: pip install --upgrade "segrefine[cuda]"',
        )
    return provider


def _lacking(provider: str, device: str) -> BackendError:
    return BackendError(
        f"ONNX Runtime has no {provider} here, which device {device} needs",
        hint="use device cpu; or pip uninstall onnxruntime, then pip install "
        '"segrefine[cuda]", which brings CUDA 13 and cuDNN 9 (see docs/gpu.md)',
    )


def create_session(
    source: Path | bytes, path: Path, device: str, options: Any, left_out: Sequence[str] = (), *, tf32: bool = False
) -> Any:
    """A session on a graph.

    Args:
        source: a file, or what was made of the one at `path`.
        path: the graph's file, for messages.
        device: `cpu`, `cuda` or `cuda:N`.
        options: of the session.
        left_out: names of optimisers that do not run.
        tf32: whether a GPU may round float32 products to TensorFloat-32.

    Raises:
        BackendError: ONNX Runtime does not have the device.
        EngineError: the graph does not load.
    """
    ort = import_onnxruntime()
    kind, index = parse_device(device)
    provider = check_provider(device)
    if kind == "cuda":
        preload_cuda(ort)
    try:
        settings = [{"device_id": str(index), "use_tf32": str(int(tf32))} if kind == "cuda" else {}]
        session = ort.InferenceSession(source, options, [provider], settings, disabled_optimizers=list(left_out))
    except Exception as error:  # ONNX Runtime's errors have no common base but this
        raise EngineError(f"it does not load in ONNX Runtime: {error}", subject=path) from error
    if session.get_providers()[0] != provider:  # it falls back to the CPU without an error
        raise _lacking(provider, device) from RuntimeError(preload_cuda(ort))
    session.disable_fallback()
    return session


@cache
def preload_cuda(ort: ModuleType) -> str:
    """Load CUDA and cuDNN from NVIDIA's Python packages; what ONNX Runtime said about it.

    Without this ONNX Runtime only finds libraries that the system knows.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints, and stdout may carry JSON
        if preload := getattr(ort, "preload_dlls", None):
            preload()
    return said.getvalue().strip()


def check_graph(session: Any, spec: ComponentSpec, path: Path) -> None:
    """Check that a session takes and gives what a specification says.

    Raises:
        EngineError: it does not.
    """
    names = {"float": "float32"}
    for side, nodes, tensors in (
        ("inputs", session.get_inputs(), spec.inputs),
        ("outputs", session.get_outputs(), spec.outputs),
    ):
        types = {node.name: node.type.removeprefix("tensor(").removesuffix(")") for node in nodes}
        found = {name: names.get(dtype, dtype) for name, dtype in types.items()}
        expected = {tensor.name: tensor.dtype for tensor in tensors}
        if found != expected:
            raise EngineError(
                f"{side} of {spec.name}", subject=path, expected=expected, got=found, hint="export the bundle again"
            )


def open_plain_session(path: Path) -> Any:
    """A session on a graph as it is, for checking exports: weights stay in their file, mapped.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    # a half-precision weight, widened for a layer, is dropped after it
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
