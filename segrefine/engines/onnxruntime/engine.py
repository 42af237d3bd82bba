"""An ONNX graph that runs in ONNX Runtime, on CPU or CUDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.engines.cuda import open_gpu
from segrefine.engines.engine import Closing, check_threads, parse_device
from segrefine.engines.onnxruntime.attention import with_flash_attention
from segrefine.engines.onnxruntime.session import (
    check_graph,
    check_provider,
    create_session,
    import_onnxruntime,
    session_options,
)
from segrefine.engines.resident import LEAST_BYTES, Resident
from segrefine.errors import EngineError
from segrefine.spec import ComponentSpec

_COSTLY_FUSIONS = ("GatherSliceToSplitFusion", "QuickGeluFusion", "TransposeOptimizer_CPUExecutionProvider")


class OnnxRuntimeEngine(Closing):
    """An ONNX graph in ONNX Runtime, on exactly the device asked for.

    Args:
        path: the graph.
        spec: what it takes and gives; the graph must agree.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        threads: CPU threads for one operator; None lets ONNX Runtime take every core.
        optimized: the graph was optimised before (`optimize_graph`), so that this is not done again.
        flash: give masked attention ONNX Runtime's own body, see `attention`; for float32 on the CPU.
        frugal: give memory back after every run, which takes some milliseconds; for large models on the CPU.
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
        frugal: bool = False,
        tf32: bool = False,
    ) -> None:
        options = session_options(import_onnxruntime(), optimized=optimized)
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
        source = prepare_flash_attention(path, options) if flash else path
        self._session: Any = create_session(source, path, device, options, left_out, tf32=tf32)
        if self._gpu:
            self._gpu.note_memory()
        self._outputs = [tensor.name for tensor in spec.outputs]
        self._run_options = _frugal_run() if frugal else None
        self.spec = spec
        check_graph(self._session, spec, path)

    def __call__(self, feeds: Mapping[str, NDArray[Any]], *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name; see `Engine`."""
        if self._session is None:
            raise EngineError("its engine is closed", subject=self.spec.name)
        self.spec.check_feeds(feeds)
        wanted = [only] if only else self._outputs
        try:
            if self._gpu is None:
                return dict(zip(wanted, self._session.run(wanted, dict(feeds), self._run_options), strict=True))
            outputs = run_bound(self._session, feeds, wanted, ("cuda", self._gpu.index))
            self._gpu.note_memory()
            return outputs
        except Exception as error:  # ONNX Runtime's errors have no common base but this
            raise EngineError(f"it failed in ONNX Runtime: {error}", subject=self.spec.name) from error

    def close(self) -> None:
        """Frees the session; closing twice is fine."""
        self._session = None


def _frugal_run() -> Any:
    """Options of a run after which its memory is given back, and not kept for the next one."""
    options = import_onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


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
    ort, binding, resident = import_onnxruntime(), session.io_binding(), _resident(*device)
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
    """Return the device's copies of arrays that sessions on it returned."""
    return Resident()


def prepare_flash_attention(graph: Path, options: Any) -> bytes:
    """A graph with ONNX Runtime's own attention; the session finds its external data where it is."""
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
    return with_flash_attention(graph)
