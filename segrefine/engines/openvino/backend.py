"""OpenVINO as a backend, on CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segrefine.bundle import Bundle
from segrefine.engines.backend import Ability, Backend
from segrefine.engines.openvino.engine import OpenVinoEngine
from segrefine.engines.openvino.graphs import check_openvino, convert_graph, import_openvino
from segrefine.engines.options import BuildOptions, EngineOptions
from segrefine.engines.recipe import EngineRecipe, find_current_engine, graph_hashes, is_large
from segrefine.errors import BackendError

_BFLOAT16_DENOISERS = ("unet", "unet_features", "unet_attention", "label_denoiser")


class OpenVinoRecipe(EngineRecipe):
    """Recipe of a graph in OpenVINO's format."""

    suffix = ".xml"


class OpenVino(Backend):
    """OpenVINO: runs graphs as they are, or converted once by `build-engine`; in bfloat16 where the CPU can."""

    def recipe(self, bundle: Bundle, component: str, device: str, options: BuildOptions) -> EngineRecipe:
        """Return the recipe of an engine; see `Backend.recipe`."""
        if device != "cpu":
            raise BackendError(subject="OpenVINO", expected="device cpu", got=repr(device), hint="choose device cpu")
        return OpenVinoRecipe(
            component=component,
            graph=graph_hashes(bundle, component),
            backend=self.name,
            version=import_openvino().__version__.partition("-")[0],
            precision=bundle.manifest.dtype,
            profile="dynamic",
            device="cpu",
            hardware="any",
        )

    def build(self, bundle: Bundle, recipe: EngineRecipe, target: Path, device: str, options: BuildOptions) -> None:
        """Write the graph in OpenVINO's format; see `Backend.build`."""
        convert_graph(bundle.graph(recipe.component), target)

    def load(self, bundle: Bundle, component: str, options: EngineOptions) -> OpenVinoEngine:
        """The engine that was built, or else the graph; see `load_engine`."""
        built = find_current_engine(bundle, self.current_recipe(bundle, component, options.device))
        large = is_large(bundle, component)
        reduced = options.precision == "bf16" and rounds_to_bfloat16(bundle, component, large=large)
        graph = built or bundle.graph(component)
        spec = bundle.manifest.components[component]
        return OpenVinoEngine(graph, spec, options.threads, precision="bf16" if reduced else "fp32", large=large)

    def abilities(self) -> Iterator[Ability]:
        """Yield the abilities here: running in float32, and in bfloat16."""
        yield self._try("run", "cpu, fp32", lambda: check_openvino("fp32"))
        yield self._try("run", "cpu, bf16", lambda: check_openvino("bf16"))


def rounds_to_bfloat16(bundle: Bundle, component: str, *, large: bool) -> bool:
    """Return whether `precision="bf16"` computes this component in bfloat16: where that takes time and costs nothing.

    That is the denoiser; and the image encoder for label diffusion, where masks keep an IoU of .995 or more with those
    in float32, and of large models, whose encoder takes a quarter of a refinement in float32. The demo model's
    refinements depend on small latents' rounding more (.984), and its encoder takes little time.

    Args:
        bundle: where it comes from.
        component: its name.
        large: see `OpenVinoEngine`.
    """
    encoder = component == "vae_encoder" and (large or bundle.manifest.method == "gs")
    return encoder or component in _BFLOAT16_DENOISERS


OPENVINO = OpenVino(
    name="openvino",
    title="OpenVINO",
    modules=("openvino",),
    packages=("openvino",),
    devices=("cpu",),
    precisions=("bf16",),
    recipe_kind=OpenVinoRecipe,
)
