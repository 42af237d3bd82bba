"""ONNX Runtime as a backend, on CPU and CUDA."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from segrefine.bundle import Bundle
from segrefine.engines.backend import Ability, Backend
from segrefine.engines.engine import parse_device
from segrefine.engines.hardware import cpu_identity, gpu_identity
from segrefine.engines.onnxruntime.engine import OnnxRuntimeEngine, prepare_flash_attention
from segrefine.engines.onnxruntime.session import check_provider, create_session, import_onnxruntime, session_options
from segrefine.engines.options import BuildOptions, EngineOptions
from segrefine.engines.recipe import EngineRecipe, find_current_engine, graph_hashes, is_large, is_large_model
from segrefine.errors import EngineError
from segrefine.storage import read_json_object


class OnnxRuntimeRecipe(EngineRecipe):
    """Recipe of a graph optimised by ONNX Runtime."""

    suffix = ".onnx"


class OnnxRuntime(Backend):
    """ONNX Runtime: runs graphs as they are, or optimised once by `build-engine`."""

    def recipe(self, bundle: Bundle, component: str, device: str, options: BuildOptions) -> EngineRecipe:
        """Return the recipe of an engine; see `Backend.recipe`."""
        kind, index = parse_device(device)
        flash = {"attention": "flash"} if (kind, bundle.manifest.dtype) == ("cpu", "fp32") else {}
        return OnnxRuntimeRecipe(
            component=component,
            graph=graph_hashes(bundle, component),
            backend=self.name,
            version=import_onnxruntime().__version__,
            precision=bundle.manifest.dtype,
            profile="dynamic",
            device=kind,
            hardware=cpu_identity() if kind == "cpu" else gpu_identity(index),
            options=flash if kind == "cpu" else {"tf32": options.tf32},
        )

    def current_recipe(self, bundle: Bundle, component: str, device: str) -> EngineRecipe:
        """The recipe of the engine that `load` takes: with TensorFloat-32 where the engine was built with it."""
        recipe = super().current_recipe(bundle, component, device)
        sidecar = recipe.folder(bundle) / f"{recipe.stem}.json"
        if recipe.device == "cpu" or not sidecar.exists():
            return recipe
        options = read_json_object(sidecar, EngineError, hint=recipe.rebuild_command(bundle)).get("options")
        chosen = isinstance(options, Mapping) and options.get("tf32") is True
        return self.recipe(bundle, component, device, BuildOptions(tf32=chosen))

    def build(self, bundle: Bundle, recipe: EngineRecipe, target: Path, device: str, options: BuildOptions) -> None:
        """Write the graph as ONNX Runtime has optimised it for this machine.

        If the graph keeps its weights in another file, they go to ``<target>_data``. The written graph would else refer
        to the original's file, in a folder where it is not.
        """
        graph = bundle.graph(recipe.component)
        session = session_options(import_onnxruntime(), optimized=False)
        session.optimized_model_filepath = str(target)
        if len(recipe.graph) > 1:
            entry = "session.optimized_model_external_initializers_file_name"
            session.add_session_config_entry(entry, target.name + "_data")
        flash = recipe.options.get("attention") == "flash"
        create_session(prepare_flash_attention(graph, session) if flash else graph, graph, device, session)

    def load(self, bundle: Bundle, component: str, options: EngineOptions) -> OnnxRuntimeEngine:
        """The engine that was built, or else the graph; see `load_engine`."""
        recipe = self.current_recipe(bundle, component, options.device)
        built = find_current_engine(bundle, recipe)
        flash = built is None and recipe.options.get("attention") == "flash" and is_large(bundle, component)
        return OnnxRuntimeEngine(
            built or bundle.graph(component),
            bundle.manifest.components[component],
            options.device,
            options.threads,
            optimized=built is not None,
            flash=flash,
            frugal=recipe.device == "cpu" and is_large_model(bundle),
            tf32=recipe.options.get("tf32", False),
        )

    def abilities(self) -> Iterator[Ability]:
        """Yield the abilities here: running on the CPU, and on CUDA."""
        yield self._try("run", "cpu", lambda: check_provider("cpu"))
        yield self._try("run", "cuda", lambda: check_provider("cuda"), lambda: gpu_identity(0))

    def conflicts(self, installed: Collection[str]) -> Iterator[str]:
        """Its two packages overwrite each other's files."""
        if {"onnxruntime", "onnxruntime-gpu"} <= {*installed}:
            yield (
                "onnxruntime and onnxruntime-gpu overwrite each other's files, and CUDA is lost without a word: "
                "pip uninstall both, then install the one"
            )


ONNX_RUNTIME = OnnxRuntime(
    name="onnxruntime",
    title="ONNX Runtime",
    modules=("onnxruntime",),
    packages=("onnxruntime", "onnxruntime-gpu", "nvidia-cudnn-cu13"),
    recipe_kind=OnnxRuntimeRecipe,
    build_options={"tf32": ("cuda",)},
)
