"""TensorRT without a GPU: engines run their graph in ONNX Runtime, on the memory of `Cuda`.

Only what needs a GPU is replaced. `Dims`, enums, data types and the logger are those of the real bindings, and every
call is checked against the real signature, see `real_parts`. A wrong shape or order gives wrong numbers or an error
here, as it would on a GPU.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from segrefine.bundle import Bundle
from segrefine.engines import BuildOptions, hardware
from segrefine.engines import cuda as cuda_module
from segrefine.engines.recipe import EngineRecipe, graph_hashes, write_sidecar
from segrefine.engines.tensorrt import libraries, profile, runtime
from segrefine.engines.tensorrt.recipe import TensorRtRecipe
from tests.engines.cuda_stand_in import Cuda
from tests.engines.real_parts import StandIn, import_bindings


@contextmanager
def one_gpu() -> Iterator[Cuda]:
    """A context in which the engines find the stand-ins."""
    cuda = Cuda()
    with pytest.MonkeyPatch.context() as patch:
        for module in (cuda_module, hardware):
            patch.setattr(module, "import_cuda", lambda: cuda)
        patch.setattr(libraries, "import_runtime", lambda library: TensorRt(cuda, library))
        patch.setattr(runtime, "load_nvrtc", lambda: True)
        cuda_module.open_gpu.cache_clear()
        yield cuda
        cuda_module.open_gpu.cache_clear()


def build(bundle: Bundle, component: str, library: str, least: int = 1, most: int = 4, **changes: Any) -> Path:
    """An engine as `build_engine` leaves it, for batches from `least` to `most` and all other sizes."""
    values = {
        "component": component,
        "graph": graph_hashes(bundle, component),
        "backend": library,
        "version": version_of(library),
        "precision": "fp32",
        "profile": f"batch={least}:{most}:{most}",
        "device": "cuda",
        "hardware": "sm86-sm89" if library == "tensorrt-rtx" else "sm89",
    }
    recipe = TensorRtRecipe(**(values | changes))
    limits = {
        tensor.name: [[size if isinstance(size, int) else other[size == "batch"] for size in tensor.shape]
                      for other in ((1, least), (1024, most), (1024, most))]
        for tensor in bundle.manifest.components[component].inputs
    }  # fmt: skip
    folder = recipe.folder(bundle)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (recipe.stem + recipe.suffix)
    job = {"graph": str(bundle.graph(component)), "limits": limits}
    if recipe.options.get("version_compatible"):
        job["host_code"] = "of the lean runtime"
    path.write_text(json.dumps(job))
    write_sidecar(recipe, folder)
    return path


def write_engine(bundle: Bundle, library: str, recipe: EngineRecipe, target: Path, options: BuildOptions) -> None:
    """In place of `build_tensorrt`: an engine for `TensorRt`, with the limits that the builder would be given."""
    spec = bundle.manifest.components[recipe.component]
    sizes = profile.make_profile(bundle.manifest, spec, options)
    limits = {tensor.name: profile.tensor_shapes(bundle.manifest, tensor, sizes) for tensor in spec.inputs}
    target.write_text(json.dumps({"graph": str(bundle.graph(recipe.component)), "limits": limits}))


class TensorRt:
    """A module of TensorRT whose `Runtime` is ours; all else is the real bindings'.

    The bytes of an engine are a JSON object with `graph`, a path, and `limits`.

    Args:
        cuda: the GPU.
        library: "tensorrt" or "tensorrt-rtx".
    """

    def __init__(self, cuda: Cuda, library: str) -> None:
        self.cuda, self.library, self.bindings = cuda, library, import_bindings(library)
        self.__name__ = library.replace("-", "_")
        self.scratch, self.broken = 4096, ""
        self.validity, self.reasons = "VALID", 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bindings, name)

    def Runtime(self, logger: Any) -> Any:
        assert isinstance(logger, self.bindings.ILogger)
        if self.broken:  # the real bindings give an object around a null pointer
            logger.log(self.ILogger.ERROR, self.broken)
            return self.wrap("Runtime", None)
        return self.wrap("Runtime", _Runtime(self, logger))

    def wrap(self, name: str, ours: Any) -> Any:
        """An object of ours that is used as the real class of this name."""
        return StandIn(getattr(self.bindings, name), self.bindings, ours)


def version_of(library: str) -> str:
    """The version of the real bindings."""
    return str(import_bindings(library).__version__)


class _Runtime:
    engine_host_code_allowed = False

    def __init__(self, module: TensorRt, log: Any) -> None:
        self.module, self.log = module, weakref.ref(log)

    def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
        return self.module.EngineValidity.__members__[self.module.validity], self.module.reasons

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        try:
            job = json.loads(content)
        except ValueError:
            self.log().log(self.module.ILogger.ERROR, "Magic tag does not match")
            return None
        if "host_code" in job and not self.engine_host_code_allowed:
            self.log().log(self.module.ILogger.ERROR, "IRuntime::getEngineHostCodeAllowed() is false")
            return None
        if self.module.cuda.capacity - self.module.cuda.weights < len(content):
            self.log().log(self.module.ILogger.ERROR, "Error Code 2: OutOfMemory (Requested size was 1 bytes.)")
            return None
        self.module.cuda.weights += len(content)
        return self.module.wrap("ICudaEngine", _Engine(self.module, job))


class _Engine:
    def __init__(self, module: TensorRt, job: dict[str, Any]) -> None:
        self.module, self.limits = module, job["limits"]
        self.session = onnxruntime.InferenceSession(job["graph"], providers=["CPUExecutionProvider"])
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.outputs = {each.name: each for each in self.session.get_outputs()}
        self.names = [*self.inputs, *self.outputs]
        self.output_shapes: dict[Any, dict[str, tuple[int, ...]]] = {}
        self.num_io_tensors, self.device_memory_size_v2 = len(self.names), module.scratch

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.module.TensorIOMode.INPUT if name in self.inputs else self.module.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kind = (self.inputs | self.outputs)[name].type
        names = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64"}
        return getattr(self.module.DataType, names[kind])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Any]:
        return [self.module.Dims(shape) for shape in self.limits[name]]

    def create_runtime_config(self) -> Any:
        return self.module.wrap("IRuntimeConfig", _Config(self.module))

    def create_execution_context(self, settings: Any) -> Any:
        ours = settings._ours if isinstance(settings, StandIn) else None
        strategy = ours.strategy if ours else settings
        assert strategy == self.module.ExecutionContextAllocationStrategy.USER_MANAGED
        needed = [weakref.ref(settings)] if ours else []  # the real context refers to these without owning them
        if ours and ours.cache:
            needed.append(ours.cache)
        return self.module.wrap("IExecutionContext", _Context(self, needed))


class _Config:
    def __init__(self, module: TensorRt) -> None:
        self.strategy: Any = None
        self.module = module
        self.cuda_graph_strategy = module.CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = module.DynamicShapesKernelSpecializationStrategy.LAZY
        self.cache: weakref.ref[Any] | None = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Any:
        return self.module.wrap("IRuntimeCache", _Cache())

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = weakref.ref(cache)
        return True


class _Cache:
    """The kernels that a context compiled: for each shape one."""

    def __init__(self) -> None:
        self.kernels: list[Any] = []

    def deserialize(self, blob: bytes) -> bool:
        try:
            self.kernels = json.loads(blob)
        except ValueError:
            return False
        return True

    def serialize(self) -> bytes:
        return json.dumps(self.kernels).encode() if self.kernels else b""


class _Context:
    def __init__(self, engine: _Engine, needed: list[weakref.ref[Any]]) -> None:
        self.engine, self.cuda, self.needed = engine, engine.module.cuda, needed
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.scratch = 0, 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.limits[name]
        assert all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)), "outside of the profile"
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        self.scratch = address, size

    def get_tensor_shape(self, name: str) -> Any:
        key = tuple(self.shapes.items())
        if key not in self.engine.output_shapes:
            feeds = {n: np.ones(s, self._dtype(n)) for n, s in key}
            values = zip(self.engine.outputs, self.engine.session.run(None, feeds), strict=True)
            self.engine.output_shapes[key] = {n: each.shape for n, each in values}
        return self.engine.module.Dims(self.engine.output_shapes[key][name])

    def execute_async_v3(self, stream: int) -> bool:
        address, size = self.scratch
        assert size >= self.engine.device_memory_size_v2
        assert all(each() is not None for each in self.needed), "what the context refers to was freed before it"
        if len(self.needed) > 1:
            self._compile(self.needed[1]()._ours.kernels)
        shapes, addresses = dict(self.shapes), dict(self.addresses)

        def work() -> None:
            self.cuda.view(address, (size,), np.uint8)[:] = 1  # every engine writes to the shared memory
            feeds = {
                name: self.cuda.view(addresses[name], shape, self._dtype(name)).copy() for name, shape in shapes.items()
            }
            for name, values in zip(self.engine.outputs, self.engine.session.run(None, feeds), strict=True):
                self.cuda.view(addresses[name], values.shape, values.dtype)[...] = values

        self.cuda.enqueue(work, stream)
        return True

    def _compile(self, kernels: list[Any]) -> None:
        """TensorRT-RTX compiles for each shape that its cache does not have."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        if shapes not in kernels:
            self.cuda.compiled += 1
            kernels.append(shapes)

    def _dtype(self, name: str) -> Any:
        return self.engine.module.nptype(self.engine.get_tensor_dtype(name))
