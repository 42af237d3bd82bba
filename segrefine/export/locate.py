"""Search for the first tensor in a component's graph that differs from a fresh export of the checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from segrefine.bundle import Bundle, BundleWriter
from segrefine.engines import DEFAULT, Engine, build_engine, built_options, load_engine
from segrefine.engines.engine import Feeds
from segrefine.errors import EngineError, MissingDependencyError
from segrefine.export.bundle_export import export_bundle
from segrefine.export.comparison import TOLERANCES
from segrefine.reference.weight_files import Model
from segrefine.spec import DType, TensorSpec

_DTYPES: Mapping[int, DType] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first tensor of a graph that is not finite, or where all are, that is past its tolerance.

    Attributes:
        component: the graph.
        tensor: its name in the graph.
        operator: the operator that gave it.
        inputs: the names of what that operator took, weights among them.
        error: largest difference, relative to the range of the tensor; infinite where `got` is not finite.
        index: where that is.
        expected: the value there in the fresh export.
        got: the value there in the bundle's engine.
        agreed: how many tensors before it agree; where `got` is not finite, how many are finite.
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
    trials: Callable[[Engine], Iterable[Feeds]],
    *,
    backend: str = DEFAULT.name,
    device: str = "cpu",
) -> Divergence | None:
    """The first tensor of a component in which the bundle and a fresh float32 export differ; None where none does.

    All tensors of floats that both graphs have become outputs (by Polygraphy), so that a backend fuses less than in the
    engine itself: what only a fusion spoils does not show here.

    Args:
        bundle: the bundle.
        checkpoint: what it was exported from.
        component: one of its graphs.
        trials: engine → sets of inputs by name that it takes, tried one after another.
        backend: what runs the bundle's graph; the default backend runs the fresh one. If a backend only runs what was
            built, the graph with its outputs is built as the bundle's own engines were.
        device: where it runs it.

    Raises:
        EngineError: with so many outputs the graph cannot be built, or does not run.
        MissingDependencyError: Polygraphy is not installed, or what builds the engine.
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
        with load_engine(reference, component) as theirs, _marked_errors(component):
            for options in built_options(bundle, component, backend, device):
                build_engine(marked, backend=backend, components=[component], options=options)
            with load_engine(marked, component, backend, device=device) as ours:
                found = (_first_difference(bundle, component, theirs(feeds), ours(feeds)) for feeds in trials(ours))
                return next(filter(None, found), None)


@contextmanager
def _marked_errors(component: str) -> Iterator[None]:
    """A context whose errors of engines do not name the graph with all outputs, which is gone when they are read."""
    try:
        yield
    except EngineError as error:
        message = f"{component} with every tensor as an output cannot be built or run: {' '.join(str(error).split())}"
        hint = f"on another backend, such as --backend {DEFAULT.name}, --locate finds what the graph itself gets wrong"
        raise EngineError(message, hint=hint) from error


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
    model = onnx.load(graph, load_external_data=False)
    model.graph.value_info.extend(model.graph.output)  # else Polygraphy drops the types of what was an output before
    model = modify_outputs(model, outputs=list(types))
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


def _first_difference(bundle: Bundle, component: str, expected: Feeds, got: Feeds) -> Divergence | None:
    """The first tensor with a value that is not finite but should be; without one, the first past its tolerance."""
    worst = {name: float(_errors(values, expected[name]).max(initial=0)) for name, values in got.items()}
    for limit in (np.finfo(np.float64).max, TOLERANCES["component"][bundle.manifest.dtype]):
        name = next((name for name, error in worst.items() if error > limit), None)
        if name is not None:
            return _describe(bundle, component, name, list(worst).index(name), expected[name], got[name])
    return None


def _describe(
    bundle: Bundle, component: str, name: str, agreed: int, expected: NDArray[Any], got: NDArray[Any]
) -> Divergence:
    graph = onnx.load(bundle.graph(component), load_external_data=False).graph
    maker = next(node for node in graph.node if name in node.output)
    errors = _errors(got, expected)
    index = np.unravel_index(errors.argmax(), errors.shape)
    return Divergence(
        component=component,
        tensor=name,
        operator=maker.op_type,
        inputs=tuple(maker.input),
        error=float(errors[index]),
        index=tuple(int(each) for each in index),
        expected=float(expected[index]),
        got=float(got[index]),
        agreed=agreed,
    )


def _errors(got: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """Return the error of each value, relative to the range of the expected ones; infinite if only one is finite."""
    wanted, given = expected.astype(np.float64), got.astype(np.float64)
    finite = wanted[np.isfinite(wanted)]
    with np.errstate(invalid="ignore"):
        gap = np.where(given == wanted, 0, np.abs(given - wanted))
    gap[~np.isfinite(gap)] = np.inf
    return gap / max(float(np.ptp(finite)) if finite.size else 0.0, 1e-6)
