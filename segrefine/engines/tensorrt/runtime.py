"""One engine file, loaded into TensorRT, with everything that its execution context refers to."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from segrefine.engines.recipe import EngineRecipe
from segrefine.engines.tensorrt.libraries import load_nvrtc
from segrefine.engines.tensorrt.runtime_cache import RuntimeCache
from segrefine.errors import BackendError, EngineError
from segrefine.spec import ComponentSpec

_NO_ROOM = "close other programs on the GPU, or build engines for smaller --max-shapes"
_REMEDIES = {
    "OLD_CUDA_DRIVER": "install a newer driver (CUDA 13 needs R580 or later); nvidia-smi shows the driver",
    "INSUFFICIENT_GPU_MEMORY": _NO_ROOM,
}
"""What to do about an engine that TensorRT-RTX calls invalid, where building it again does not help."""


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """Source of an engine to load.

    Attributes:
        path: the engine's file.
        spec: what it takes and gives; the engine must agree.
        recipe: what it was built from.
        rebuild: the command that builds it again, for errors.
        machine: the GPU and the driver, for the runtime cache, such as "sm89-cuda13.0".
    """

    path: Path
    spec: ComponentSpec
    recipe: EngineRecipe
    rebuild: str
    machine: str

    @property
    def hint(self) -> str:
        """Return the remedy for an engine that does not load."""
        return f"build it again: {self.rebuild}"


class LoadedEngine:
    """An engine in TensorRT, and all that must live as long as its execution context.

    TensorRT-RTX refers to the runtime configuration and to the runtime cache without owning them. Both are freed after
    the context.

    Args:
        module: the library that runs the engine.
        plan: what to load.

    Raises:
        BackendError: the library does not start on this machine.
        EngineError: the engine does not load, or takes or gives something else than `plan.spec`.
    """

    def __init__(self, module: ModuleType, plan: EnginePlan) -> None:
        self.context: Any = None
        self._config: Any = None
        self._cache: Any = None
        self._kept: bytes | None = None
        self._module: Any = module
        self._plan = plan
        self._rtx = plan.recipe.backend == "tensorrt-rtx"
        if self._rtx:
            load_nvrtc()
        self.log = new_log(module)
        self._runtime: Any = start_runtime(module, self.log)
        self.engine: Any = self._deserialize()
        self._check_tensors()
        self._cache_file = RuntimeCache(plan.path, plan.recipe.key, plan.machine) if self._rtx else None
        self.context = self._new_context()

    def profile_shapes(self, name: str) -> list[tuple[int, ...]]:
        """Smallest, tuned and largest shape of an input, as tuples: `Dims` of TensorRT cannot be compared."""
        return [tuple(shape) for shape in self.engine.get_tensor_profile_shape(name, 0)]

    def save_cache(self) -> None:
        """Write the kernels that were compiled since the cache was read or written last."""
        if self._cache is None or self._cache_file is None:
            return
        content = bytes(self._cache.serialize() or b"")
        if content and content != self._kept:
            self._cache_file.write(content)
            self._kept = content

    def close(self) -> None:
        """Free the context, and after it what it refers to."""
        self.context = None
        self._config = self._cache = None
        self.engine = self._runtime = None

    def __del__(self) -> None:
        self.close()  # where nobody did: attributes that go by themselves go in any order

    def _deserialize(self) -> Any:
        content = self._plan.path.read_bytes()
        if self._rtx:
            self._check_validity(content)
        elif self._plan.recipe.options.get("version_compatible"):
            self._runtime.engine_host_code_allowed = True  # such an engine carries the code of its own lean runtime
        self.log.last = ""
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            library = self._plan.recipe.backend
            raise EngineError(
                f"it does not load in {library}: {self.log.said()}",
                subject=self._plan.path,
                hint=_NO_ROOM if is_shortage(self.log.last) else self._plan.hint,
            )
        return engine

    def _check_validity(self, content: bytes) -> None:
        validity, reasons = self._runtime.get_engine_validity(content)
        if validity == self._module.EngineValidity.INVALID:
            members = self._module.EngineInvalidityDiagnostics.__members__
            named = [name for name, flag in members.items() if reasons & flag.value]
            said = " and ".join(named).lower().replace("_", " ") or self.log.said()
            hint = next((_REMEDIES[name] for name in _REMEDIES if name in named), self._plan.hint)
            raise EngineError(f"it does not fit this machine: {said}", subject=self._plan.path, hint=hint)

    def _check_tensors(self) -> None:
        """Raises EngineError where the engine's tensors are not those of the specification."""
        spec, modes = self._plan.spec, self._module.TensorIOMode
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        for mode, tensors in ((modes.INPUT, spec.inputs), (modes.OUTPUT, spec.outputs)):
            expected = {each.name: each.dtype for each in tensors}
            found = {
                name: np.dtype(self._module.nptype(self.engine.get_tensor_dtype(name))).name
                for name in names
                if self.engine.get_tensor_mode(name) == mode
            }
            if found != expected:
                side = mode.name.lower()
                raise EngineError(
                    f"{side}s of {spec.name}",
                    subject=self._plan.path,
                    expected=expected,
                    got=found,
                    hint=self._plan.hint,
                )

    def _new_context(self) -> Any:
        strategy = self._module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self.engine.create_execution_context(self._configure(strategy) if self._rtx else strategy)
        if context is None:
            message = f"its engine cannot be prepared to run: {self.log.said()}"
            raise EngineError(message, subject=self._plan.spec.name, hint=_NO_ROOM)
        return context

    def _configure(self, strategy: Any) -> Any:
        """TensorRT-RTX's runtime configuration: memory from outside, CUDA graphs of its own, compiled kernels kept."""
        config = self._config = self.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.cuda_graph_strategy = self._module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Compiled at the first call of a shape, not in the background: graphs must not capture a fallback kernel.
        config.dynamic_shapes_kernel_specialization_strategy = (
            self._module.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        cache = self._cache = config.create_runtime_cache()
        assert self._cache_file is not None
        if content := self._cache_file.read():
            if cache.deserialize(content):
                self._kept = content
            else:
                self._cache_file.reject()
        if not config.set_runtime_cache(cache):
            raise EngineError(f"TensorRT-RTX takes no runtime cache: {self.log.said()}", subject=self._plan.path)
        return config


def start_runtime(module: Any, log: Any) -> Any:
    """TensorRT's runtime.

    Raises:
        BackendError: it does not start. The bindings then give an object around a null pointer. Any use of it ends the
            process, its destructor too; only the log tells.
    """
    runtime = module.Runtime(log)
    if log.last:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))  # never destroyed
        raise BackendError(
            f"it does not start: {log.last}",
            subject=f"{module.__name__} {module.__version__}",
            hint="segrefine doctor shows driver, CUDA and libraries; they must go together",
        )
    return runtime


def is_shortage(message: str) -> bool:
    """Return whether the library complains about too little memory."""
    return any(word in message.lower() for word in ("outofmemory", "out of memory", "bad_alloc", "insufficient memory"))


def new_log(module: Any) -> Any:
    """A logger of the library that keeps its last error."""

    class Log(module.ILogger):  # type: ignore[misc]  # the class is the library's, whichever it is
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR):
                self.last = message.strip()

        def said(self) -> str:
            return self.last or "it says no reason"

    return Log()
