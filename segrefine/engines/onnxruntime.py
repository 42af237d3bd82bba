"""ONNX Runtime as a backend, on CPU and CUDA."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.bundle import Bundle
from segrefine.engines.cpu_attention import with_flash_attention
from segrefine.engines.cuda import open_gpu
from segrefine.engines.engine import Closing, check_threads, parse_device
from segrefine.engines.hardware import cpu_identity, gpu_identity, version_numbers
from segrefine.engines.recipe import EngineRecipe, graph_hashes
from segrefine.engines.resident import LEAST_BYTES, Resident
from segrefine.errors import BackendError, EngineError, MissingDependencyError
from segrefine.spec import ComponentSpec
from segrefine.storage import read_json_object

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_LEAST_FOR_CUDA = "1.26"
"""Earlier versions run attention on the CPU, whatever the provider. The extra asks for this version too."""

_COSTLY_FUSIONS = ("GatherSliceToSplitFusion", "QuickGeluFusion", "TransposeOptimizer_CPUExecutionProvider")


class OnnxRuntimeEngine(Closing):
    """An ONNX graph in ONNX Runtime, on exactly the device asked for.

    Args:
        path: the graph.
        spec: what it takes and gives; the graph must agree.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        threads: CPU threads for one operator; None lets ONNX Runtime take every core.
        optimized: the graph was optimised before (`optimize_graph`), so that this is not done again.
        flash: give masked attention ONNX Runtime's own body, see `cpu_attention`; for float32 on the CPU.
        tf32: round float32 products to TensorFloat-32 on a GPU. ONNX Runtime does so by default; segrefine does not.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        BackendError: the device is unknown, or not to be had.
        EngineError: the graph does not load, or takes or gives something else than `spec`.
    """

    def __init__(
        self,
        path: Path,
        spec: ComponentSpec,
        device: str = "cpu",
        threads: int | None = None,
        *,
        optimized: bool = False,
        flash: bool = False,
        tf32: bool = False,
    ) -> None:
        ort = _import_onnxruntime()
        options = _session_options(ort, optimized=optimized)
        if threads is not None:
            options.intra_op_num_threads = check_threads(threads)
        kind, index = parse_device(device)
        self._gpu = open_gpu(index) if kind == "cuda" and check_provider(device) else None
        left_out: Sequence[str] = ()
        if not optimized and not flash:  # loads faster; a built engine, which loads once, is worth the time
            options.add_session_config_entry("session.disable_aot_function_inlining", "1")
            # After each of these that finds something the whole graph is gone through again, for nothing: the demo's
            # UNet takes a quarter less time to load without them, and as long to run, alone or in a batch of 24.
            left_out = _COSTLY_FUSIONS if kind == "cpu" else ()
        source = _with_flash_attention(path, options) if flash else path
        self._session: Any = _create_session(ort, source, path, device, options, left_out, tf32=tf32)
        if self._gpu:
            self._gpu.note_memory()
        self._outputs = [tensor.name for tensor in spec.outputs]
        self.spec = spec
        _check_graph(self._session, spec, path)

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name; see `Engine`."""
        if self._session is None:
            raise EngineError(f"the engine of {self.spec.name} is closed")
        self.spec.check_feeds(feeds)
        wanted = [only] if only else self._outputs
        try:
            if self._gpu is None:
                return dict(zip(wanted, self._session.run(wanted, dict(feeds)), strict=True))
            outputs = run_bound(self._session, feeds, wanted, ("cuda", self._gpu.index))
            self._gpu.note_memory()
            return outputs
        except Exception as error:  # ONNX Runtime's errors have no common base but this
            raise EngineError(f"{self.spec.name} failed in ONNX Runtime: {error}") from error

    def close(self) -> None:
        """Frees the session; closing twice is fine."""
        self._session = None


def run_bound(
    session: Any, feeds: Mapping[str, NDArray[Any]], wanted: Sequence[str], device: tuple[str, int]
) -> dict[str, NDArray[Any]]:
    """The outputs of a session that takes its inputs and leaves its outputs on a device.

    What the device still has of an input, because another session gave it, is not sent there again.

    Args:
        session: ONNX Runtime's.
        feeds: the inputs by name.
        wanted: names of outputs.
        device: kind and number of the one that the session runs on.
    """
    ort, binding, resident = _import_onnxruntime(), session.io_binding(), _resident(*device)
    for name, values in feeds.items():
        there = resident.find(values)
        if there is None:
            there = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(values), *device)
        binding.bind_ortvalue_input(name, there)
    for name in wanted:
        binding.bind_output(name, *device)
    session.run_with_iobinding(binding)
    outputs = {}
    for name, value in zip(wanted, binding.get_outputs(), strict=True):
        outputs[name] = array = value.numpy()
        if array.nbytes >= LEAST_BYTES:
            resident.keep(array, value)
    return outputs


@cache
def _resident(kind: str, index: int) -> Resident[Any]:
    """What a device has of arrays that sessions on it gave."""
    return Resident()


def optimize_graph(graph: Path, recipe: EngineRecipe, target: Path, device: str) -> None:
    """Writes the graph as ONNX Runtime has optimised it for this machine to `target`.

    Where the graph keeps its weights apart they go to ``<target>_data``: what is written would else refer to the
    graph's data, in a folder where it is not.

    Args:
        graph: the graph to read.
        recipe: its recipe, see `onnxruntime_recipe`.
        target: the file to write.
        device: as for `OnnxRuntimeEngine`.
    """
    ort = _import_onnxruntime()
    options = _session_options(ort, optimized=False)
    options.optimized_model_filepath = str(target)
    if len(recipe.graph) > 1:
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", target.name + "_data"
        )
    source = _with_flash_attention(graph, options) if recipe.options.get("attention") == "flash" else graph
    _create_session(ort, source, graph, device, options)


def _with_flash_attention(graph: Path, options: Any) -> bytes:
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
    return with_flash_attention(graph)


def onnxruntime_recipe(bundle: Bundle, component: str, device: str, *, tf32: bool = False) -> EngineRecipe:
    """What an engine of this component is made from, on this machine.

    Args:
        bundle: the bundle.
        component: name of the graph.
        device: as for `OnnxRuntimeEngine`.
        tf32: whether a GPU may round float32 products to TensorFloat-32.

    Raises:
        BundleError: there is no such component.
        BackendError: the device is unknown.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    kind, index = parse_device(device)
    flash = {"attention": "flash"} if (kind, bundle.manifest.dtype) == ("cpu", "fp32") else {}
    return EngineRecipe(
        component=component,
        graph=graph_hashes(bundle, component),
        backend="onnxruntime",
        version=_import_onnxruntime().__version__,
        precision=bundle.manifest.dtype,
        profile="dynamic",
        device=kind,
        hardware=cpu_identity() if kind == "cpu" else gpu_identity(index),
        options=flash if kind == "cpu" else {"tf32": tf32},
    )


def built_recipe(bundle: Bundle, component: str, device: str) -> EngineRecipe:
    """The recipe of the engine that `load_engine` takes: with TF32 where the engine was built with it.

    Raises:
        SegrefineError: see `onnxruntime_recipe`.
    """
    recipe = onnxruntime_recipe(bundle, component, device)
    sidecar = recipe.folder(bundle) / f"{recipe.stem}.json"
    if recipe.device == "cpu" or not sidecar.exists():
        return recipe
    options = read_json_object(sidecar, EngineError, hint=recipe.rebuild_command(bundle)).get("options")
    chosen = isinstance(options, Mapping) and options.get("tf32") is True
    return onnxruntime_recipe(bundle, component, device, tf32=chosen)


def _import_onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        hint = 'install it: pip install "segrefine[cpu]" (or "segrefine[cuda]" for a GPU)'
        raise MissingDependencyError("ONNX Runtime is not installed", hint=hint) from error
    return onnxruntime  # type: ignore[no-any-return]  # it comes without types


def _session_options(ort: ModuleType, *, optimized: bool) -> Any:
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
    provider, ort = _PROVIDERS[kind], _import_onnxruntime()
    if provider not in ort.get_available_providers():
        raise _lacking(provider, device)
    if kind == "cuda" and version_numbers(ort.__version__) < version_numbers(_LEAST_FOR_CUDA):
        raise BackendError(
            f"ONNX Runtime {ort.__version__} is too old for CUDA: before {_LEAST_FOR_CUDA} it computes attention on "
            "the CPU",
            hint='install a newer one: pip install --upgrade "segrefine[cuda]"',
        )
    return provider


def _lacking(provider: str, device: str) -> BackendError:
    return BackendError(
        f"ONNX Runtime has no {provider} here, which device {device} needs",
        hint="use device cpu; or pip uninstall onnxruntime, then pip install "
        '"segrefine[cuda]", which brings CUDA 13 and cuDNN 9 (see docs/gpu.md)',
    )


def _create_session(
    ort: ModuleType,
    source: Path | bytes,
    path: Path,
    device: str,
    options: Any,
    left_out: Sequence[str] = (),
    *,
    tf32: bool = False,
) -> Any:
    """A session on a graph: a file, or what was made of the one at `path`; without the optimisers `left_out`."""
    kind, index = parse_device(device)
    provider = check_provider(device)
    if kind == "cuda":
        preload_cuda(ort)
    try:
        settings = [{"device_id": str(index), "use_tf32": str(int(tf32))} if kind == "cuda" else {}]
        session = ort.InferenceSession(source, options, [provider], settings, disabled_optimizers=list(left_out))
    except Exception as error:  # ONNX Runtime's errors have no common base but this
        raise EngineError(f"{path} does not load in ONNX Runtime: {error}") from error
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


def _check_graph(session: Any, spec: ComponentSpec, path: Path) -> None:
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
                f"{path} has {side} {found}, but {spec.name} should have {expected}", hint="export the bundle again"
            )
