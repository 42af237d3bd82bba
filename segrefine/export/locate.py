"""Where a component goes wrong: the first tensor in its graph that differs from a fresh export of the checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from segrefine.bundle import Bundle, BundleWriter
from segrefine.engines import load_engine
from segrefine.errors import MissingDependencyError
from segrefine.export.bundle_export import export_bundle
from segrefine.export.comparison import TOLERANCES, relative_error
from segrefine.reference.checkpoint import Model
from segrefine.spec import DType, TensorSpec

_DTYPES: Mapping[int, DType] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first tensor of a graph that is past its tolerance.

    Attributes:
        component: the graph.
        tensor: its name in the graph.
        operator: the operator that gave it.
        inputs: the names of what that operator took, weights among them.
        error: largest difference, relative to the range of the tensor.
        index: where that is.
        expected: the value there in the fresh export.
        got: the value there in the bundle's engine.
        agreed: how many tensors before it agree.
    """

    component: str
    tensor: str
    operator: str
    inputs: tuple[str, ...]
    error: float
    index: tuple[int, ...]
    expected: float
    got: float
    agreed: int


def locate_divergence(
    bundle: Bundle,
    checkpoint: Model,
    component: str,
    trials: Iterable[Mapping[str, NDArray[Any]]],
    *,
    backend: str = "onnxruntime",
    device: str = "cpu",
) -> Divergence | None:
    """The first tensor of a component in which the bundle and a fresh float32 export differ; None where none does.

    All tensors of floats that both graphs have become outputs (by Polygraphy), so that a backend fuses less than in the
    engine itself: what only a fusion spoils does not show here.

    Args:
        bundle: the bundle.
        checkpoint: what it was exported from.
        component: one of its graphs.
        trials: sets of inputs by name, tried one after another.
        backend: what runs the bundle's graph; ONNX Runtime runs the fresh one.
        device: where it runs it.

    Raises:
        MissingDependencyError: Polygraphy is not installed.
        SegrefineError: one of the two cannot be exported, loaded or run.
    """
    manifest = bundle.manifest
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fresh = export_bundle(
            checkpoint,
            folder / "fresh",
            opset=manifest.opset,
            components=[component],
            taps=manifest.feature_taps,
        )
        known = _float_tensors(fresh, component)
        shared = {name: dtype for name, dtype in _float_tensors(bundle, component).items() if name in known}
        reference = _mark(fresh, component, {name: known[name] for name in shared}, folder / "reference")
        marked = _mark(bundle, component, shared, folder / "marked")
        with (
            load_engine(reference, component) as theirs,
            load_engine(marked, component, backend, device=device) as ours,
        ):
            found = (_first_difference(bundle, component, theirs(feeds), ours(feeds)) for feeds in trials)
            return next(filter(None, found), None)


def _float_tensors(bundle: Bundle, component: str) -> dict[str, DType]:
    """The type of every tensor of floats that a node of the graph gives, in the graph's order."""
    graph = onnx.load(bundle.graph(component), load_external_data=False).graph
    types = {each.name: each.type.tensor_type.elem_type for each in (*graph.value_info, *graph.output)}
    names = [name for node in graph.node if node.op_type != "Constant" for name in node.output]
    return {name: _DTYPES[types[name]] for name in names if types.get(name) in _DTYPES}


def _mark(bundle: Bundle, component: str, types: Mapping[str, DType], folder: Path) -> Bundle:
    """A bundle of one component whose outputs are the tensors that `types` names, in that order."""
    try:
        from polygraphy.backend.onnx import modify_outputs
    except ImportError as error:
        hint = "install it: pip install polygraphy"
        raise MissingDependencyError("the package polygraphy is not installed", hint=hint) from error
    graph, spec = bundle.graph(component), bundle.manifest.components[component]
    model = modify_outputs(onnx.load(graph, load_external_data=False), outputs=list(types))
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in model.graph.output}
    outputs = tuple(
        TensorSpec(name, dtype, tuple(f"axis{axis}" for axis in range(ranks[name]))) for name, dtype in types.items()
    )
    with BundleWriter(folder) as writer:
        for path in bundle.graph_files(component):
            (writer.directory / path).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle.path / path, writer.directory / path)
        target = writer.directory / graph.relative_to(bundle.path)
        onnx.save(model, target)
        marked = replace(spec, outputs=outputs)
        graphs = {component: bundle.manifest.graphs[component]}
        return writer.finish(replace(bundle.manifest, graphs=graphs, components={component: marked}))


def _first_difference(
    bundle: Bundle, component: str, expected: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]
) -> Divergence | None:
    tolerance = TOLERANCES["component"][bundle.manifest.dtype]
    for count, name in enumerate(got):
        wanted, found = expected[name].astype(np.float32), got[name].astype(np.float32)
        if not wanted.size or (error := relative_error(found, wanted)) <= tolerance:
            continue
        graph = onnx.load(bundle.graph(component), load_external_data=False).graph
        maker = next(node for node in graph.node if name in node.output)
        difference = np.where(np.isfinite(found), np.abs(found - wanted), np.inf)
        index = np.unravel_index(difference.argmax(), difference.shape)
        return Divergence(
            component=component,
            tensor=name,
            operator=maker.op_type,
            inputs=tuple(maker.input),
            error=error,
            index=tuple(int(each) for each in index),
            expected=float(wanted[index]),
            got=float(found[index]),
            agreed=count,
        )
    return None
