"""Graphs as OpenVINO reads and writes them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from segrefine.errors import BackendError, EngineError, MissingDependencyError
from segrefine.spec import ComponentSpec

_HINT = 'install it: pip install "segrefine[openvino]"'


def import_openvino() -> ModuleType:
    """Import OpenVINO.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError("OpenVINO is not installed", hint=_HINT) from error
    return openvino  # type: ignore[no-any-return]  # mypy is told to skip it


def check_openvino(precision: str) -> None:
    """Check that OpenVINO can compute in this precision here.

    Raises:
        BackendError: the CPU cannot.
        MissingDependencyError: OpenVINO is not installed.
    """
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in capabilities:
        raise BackendError(
            subject="this CPU",
            expected="instructions for bfloat16",
            got=", ".join(capabilities),
            hint="take precision fp32, or a CPU with AVX512-BF16 or AMX",
        )


def convert_graph(graph: Path, target: Path) -> None:
    """Write an ONNX graph in OpenVINO's format, float32 weights kept, to `target` (``.xml``, with ``.bin`` beside).

    Raises:
        MissingDependencyError: OpenVINO, or the package onnx, is not installed.
        EngineError: the graph does not load.
    """
    openvino = import_openvino()
    openvino.save_model(read_graph(openvino.Core(), graph), target, compress_to_fp16=False)


def read_graph(core: Any, path: Path) -> Any:
    """The model of an ``.xml`` or ``.onnx`` file. OpenVINO refuses ONNX local functions, so they are inlined.

    Raises:
        EngineError: the file does not load.
        MissingDependencyError: the package onnx is not installed.
    """
    if path.suffix == ".xml":
        return _read_model(core, path, path)
    try:
        import onnx
        from onnx.inliner import inline_local_functions
    except ImportError as error:
        raise MissingDependencyError("the package onnx is not installed", hint=_HINT) from error
    with tempfile.TemporaryDirectory() as scratch:
        flat = Path(scratch) / path.name
        try:
            model = onnx.load(path, load_external_data=False)
            onnx.save(inline_local_functions(model), flat)
        except Exception as error:  # protobuf's and onnx's errors have no common base but this
            raise EngineError(f"it does not load: {error}", subject=path, hint="export the bundle again") from error
        external = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
        for name in {Path(entry.value).name for entry in external if entry.key == "location"}:
            shutil.copyfile(path.with_name(name), flat.with_name(name))  # OpenVINO follows no link
        return _read_model(core, flat, path)


def _read_model(core: Any, file: Path, named: Path) -> Any:
    try:
        return core.read_model(file)
    except RuntimeError as error:
        raise EngineError(
            f"it does not load in OpenVINO: {error}", subject=named, hint="export the bundle again"
        ) from error


def check_names(model: Any, spec: ComponentSpec, path: Path) -> None:
    """Check that a model has the inputs and outputs of a specification.

    Raises:
        EngineError: it does not.
    """
    for side, ports, tensors in (("inputs", model.inputs, spec.inputs), ("outputs", model.outputs, spec.outputs)):
        found, expected = {name for port in ports for name in port.names}, {tensor.name for tensor in tensors}
        if not expected <= found or len(ports) != len(tensors):
            raise EngineError(
                f"{side} of {spec.name}",
                subject=path,
                expected=sorted(expected),
                got=sorted(found),
                hint="export the bundle again",
            )
