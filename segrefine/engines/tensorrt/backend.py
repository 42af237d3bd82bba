"""TensorRT and TensorRT-RTX as backends: they run engines that were built for a GPU, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path

from segrefine.bundle import Bundle
from segrefine.engines.backend import DEVICES, Ability, Backend
from segrefine.engines.engine import parse_device
from segrefine.engines.hardware import gpu_identity, gpu_machine
from segrefine.engines.options import BuildOptions, EngineOptions
from segrefine.engines.recipe import EngineRecipe
from segrefine.engines.tensorrt.build import build_tensorrt, tensorrt_recipe
from segrefine.engines.tensorrt.engine import TensorRtEngine, TensorRtEngines
from segrefine.engines.tensorrt.libraries import (
    CUDA_VERSIONS,
    Library,
    check_builder,
    check_capability,
    check_runtime,
    import_library,
    import_runtime,
    is_lean,
    load_nvrtc,
)
from segrefine.engines.tensorrt.preflight import find_tensorrt_engines
from segrefine.engines.tensorrt.recipe import TensorRtRecipe
from segrefine.engines.tensorrt.runtime import EnginePlan
from segrefine.engines.tensorrt.runtime_cache import SUFFIX
from segrefine.errors import BackendError, SegrefineError


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorRt(Backend):
    """One of the two libraries.

    Attributes:
        library: its name.
        bindings: names of its packages of bindings, without the version of CUDA.
    """

    library: Library
    bindings: tuple[str, ...]

    def recipe(self, bundle: Bundle, component: str, device: str, options: BuildOptions) -> TensorRtRecipe:
        """Return the recipe of an engine; see `Backend.recipe`."""
        return tensorrt_recipe(bundle, component, self.library, options)

    def current_recipe(self, bundle: Bundle, component: str, device: str) -> EngineRecipe:
        """Raise an error: `load` takes every engine of its sizes that fits, and none is current.

        Raises:
            BackendError: always.
        """
        raise BackendError(f"{self.title} builds for other machines")

    def build(self, bundle: Bundle, recipe: EngineRecipe, target: Path, device: str, options: BuildOptions) -> None:
        """Build the engine, in a process of its own; see `Backend.build`."""
        build_tensorrt(bundle, self.library, recipe, target, options)

    def load(self, bundle: Bundle, component: str, options: EngineOptions) -> TensorRtEngines:
        """The engines that were built for the GPU. What must match is checked before TensorRT reads a file."""
        _, index = parse_device(options.device)  # "cpu" means the first GPU here: TensorRT runs on nothing else
        with ExitStack() as stack:
            engines = []
            for path, recipe in self._find(bundle, component, index):
                plan = EnginePlan(
                    path=path,
                    spec=bundle.manifest.components[component],
                    recipe=recipe,
                    rebuild=recipe.rebuild_command(bundle),
                    machine=gpu_machine(index),
                )
                engines.append(stack.enter_context(TensorRtEngine(plan, index)))
            stack.pop_all()  # all of them loaded
        return TensorRtEngines(engines)

    def built_options(self, bundle: Bundle, component: str, device: str) -> list[BuildOptions]:
        """Return the options that rebuild the engines `load` would take."""
        _, index = parse_device(device)
        return [recipe.build_options for _, recipe in self._find(bundle, component, index)]

    def check_build_device(self, device: str) -> None:
        """Check that the device is the first GPU; "cpu" is the command line's default and says nothing.

        Raises:
            BackendError: it is another one.
        """
        if device != "cpu" and parse_device(device) != ("cuda", 0):
            raise BackendError(
                f"TensorRT builds for the first GPU, not for {device!r}",
                hint="leave --device out; CUDA_VISIBLE_DEVICES chooses another GPU",
            )

    def check_builder(self) -> None:
        """Check that the library and Polygraphy are installed."""
        check_builder(self.library)

    def is_ready(self, bundle: Path, index: int) -> bool:
        """Return whether the library runs here, and every graph has an engine for this GPU, stale or not."""
        folder = bundle / "engines" / self.name
        if not folder.is_dir():
            return False
        try:
            check_runtime(self.library, index)
            gpu, graphs = gpu_identity(index), Bundle.open(bundle).manifest.graphs
        except SegrefineError:
            return False
        built = (
            any(gpu in sidecar.stem.rpartition("_")[2].split("-") for sidecar in (folder / graph).glob("*_sm*.json"))
            for graph in graphs
        )
        return all(built)

    def abilities(self) -> Iterator[Ability]:
        """Yield the abilities here: running on and building for the GPU; TensorRT-RTX also builds for others."""
        yield self._try("run", "cuda", partial(import_runtime, self.library), partial(check_runtime, self.library, 0))
        if self.library == "tensorrt-rtx":
            yield self._try("build", "any GPU it supports", self.check_builder)
        yield self._try("build", "the GPU here", self.check_builder, self._check_gpu_here)

    def cache_sizes(self, sidecar: Path) -> Mapping[str, int]:
        """Bytes of each file with what TensorRT-RTX compiled, by the GPU and the driver that it is for."""
        return {
            path.name.removeprefix(f"{sidecar.stem}.").removesuffix(SUFFIX): path.stat().st_size
            for path in sorted(sidecar.parent.glob(f"{escape(sidecar.stem)}.*{SUFFIX}"))
        }

    def conflicts(self, installed: Collection[str]) -> Iterator[str]:
        """Packages for two versions of CUDA overwrite each other's files."""
        for bindings in self.bindings:
            both = [f"{bindings}_{cuda}_bindings" for cuda in CUDA_VERSIONS]
            if {*installed} >= {*both}:
                yield (f"{' and '.join(both)} overwrite each other's files: pip uninstall both, then install the one")

    def gaps(self) -> Iterator[str]:
        """The run-time compiler that TensorRT-RTX may need, where it is missing and the rest is there."""
        if self.library != "tensorrt-rtx":
            return
        try:
            check_runtime(self.library, 0)
        except SegrefineError:  # it does not run here anyway, and `abilities` says why
            return
        if not load_nvrtc():
            yield (
                "NVRTC, NVIDIA's run-time compiler, is not found; TensorRT-RTX may need it to compile engines: "
                "pip install nvidia-cuda-nvrtc (nvidia-cuda-nvrtc-cu12 for CUDA 12), or install the CUDA Toolkit"
            )

    def _check_gpu_here(self) -> None:
        check_capability(self.library, import_library(self.library), gpu_identity(0))

    def _find(self, bundle: Bundle, component: str, index: int) -> list[tuple[Path, TensorRtRecipe]]:
        module = check_runtime(self.library, index)
        return find_tensorrt_engines(
            bundle,
            component,
            self.library,
            version=module.__version__,
            hardware=gpu_identity(index),
            lean=is_lean(module),
        )


def _bindings(*libraries: str) -> tuple[str, ...]:
    """The packages of bindings of libraries, for each version of CUDA."""
    return tuple(f"{name}_{cuda}_bindings" for name in libraries for cuda in CUDA_VERSIONS)


_OPTIONS = (
    *("min_shapes", "opt_shapes", "max_shapes", "compute_capabilities", "optimization_level", "workspace"),
    *("plugins", "timing_cache", "tf32", "version_compatible"),
)


def _taking_all_but(*names: str) -> dict[str, tuple[str, ...]]:
    """Every option, but those of these names; the recipe says why it does not take those."""
    return {name: () if name in names else DEVICES for name in _OPTIONS}


TENSORRT = TensorRt(
    name="tensorrt",
    title="TensorRT",
    library="tensorrt",
    modules=("tensorrt", "tensorrt_bindings", "tensorrt_lean", "tensorrt_lean_bindings"),
    bindings=("tensorrt", "tensorrt_lean"),
    packages=("tensorrt", *_bindings("tensorrt", "tensorrt_lean"), "polygraphy", "cuda-bindings"),
    devices=("cuda",),
    recipe_kind=TensorRtRecipe,
    build_options=_taking_all_but("compute_capabilities"),
    needs_build=True,
)
TENSORRT_RTX = TensorRt(
    name="tensorrt-rtx",
    title="TensorRT-RTX",
    library="tensorrt-rtx",
    modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
    bindings=("tensorrt_rtx",),
    packages=(*_bindings("tensorrt_rtx"), "polygraphy", "cuda-bindings", "nvidia-cuda-nvrtc"),
    devices=("cuda",),
    recipe_kind=TensorRtRecipe,
    build_options=_taking_all_but("plugins", "version_compatible"),
    needs_build=True,
)
