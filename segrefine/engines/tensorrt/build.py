"""Build TensorRT engines ahead of time, for the sizes and the GPUs asked for.

TensorRT-RTX builds for any GPU that it supports, also on a machine without one. TensorRT builds for the GPU here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

from segrefine.bundle import Bundle
from segrefine.engines.cuda import open_gpu
from segrefine.engines.hardware import gpu_identity
from segrefine.engines.options import BuildOptions
from segrefine.engines.recipe import EngineRecipe, graph_hashes
from segrefine.engines.tensorrt.job import BuildJob
from segrefine.engines.tensorrt.libraries import (
    Library,
    check_builder,
    check_capability,
    check_driver,
    import_library,
    rtx_capabilities,
)
from segrefine.engines.tensorrt.messages import explain_failure
from segrefine.engines.tensorrt.profile import make_profile, profile_limits, tensor_shapes
from segrefine.engines.tensorrt.recipe import TensorRtRecipe
from segrefine.engines.tensorrt.signed import signed_graph
from segrefine.errors import BackendError, EngineError, MissingDependencyError, OutputError


def tensorrt_recipe(bundle: Bundle, component: str, library: Library, options: BuildOptions) -> TensorRtRecipe:
    """Return the recipe of an engine for this component.

    Raises:
        BackendError: the library cannot build for these GPUs, or there is none.
        BundleError: there is no such component.
        MissingDependencyError: the library is not installed.
        ShapeError: the shapes do not go together.
    """
    if library == "tensorrt-rtx" and options.plugins == "always":
        raise BackendError(
            "it has no plugins", subject="TensorRT-RTX", hint="leave --plugins out, or use --backend tensorrt"
        )
    if library == "tensorrt-rtx" and options.version_compatible:
        raise BackendError(
            "an engine runs on its own version only",
            subject="TensorRT-RTX",
            hint="leave --version-compatible out, or use --backend tensorrt",
        )
    check_builder(library)
    hashes, module = graph_hashes(bundle, component), import_library(library)
    profile = make_profile(bundle.manifest, bundle.manifest.components[component], options)
    sizes = {symbol: [str(limit[symbol]) for limit in profile_limits(profile)] for symbol in profile.opt}
    return TensorRtRecipe(
        component=component,
        graph=hashes,
        backend=library,
        version=module.__version__,
        precision=bundle.manifest.dtype,
        profile=",".join(f"{s}={':'.join(each if len({*each}) > 1 else each[:1])}" for s, each in sizes.items()),
        device="cuda",
        hardware=_hardware(module, library, options.compute_capabilities),
        options={
            "optimization_level": options.optimization_level,
            "workspace": options.workspace,
            "plugins": "always" if options.plugins == "always" else None,
            "tf32": options.tf32,
            "version_compatible": options.version_compatible,
        },
    )


def build_tensorrt(bundle: Bundle, library: Library, recipe: EngineRecipe, target: Path, options: BuildOptions) -> None:
    """Writes the engine of `recipe` to `target`.

    The builder runs in a process of its own: a library that crashes takes nothing with it, its gigabytes are given back
    at the end, and Polygraphy, through which it is driven, knows one of the two libraries in a process.

    Raises:
        EngineError: the builder failed; the message says why, the hint what to do.
        OutputError: the engine cannot be written.
    """
    if options.timing_cache and not os.access(options.timing_cache.absolute().parent, os.W_OK):
        raise OutputError(
            "cannot write the timing cache: its folder is not there, or read-only",
            subject=options.timing_cache,
            hint="choose a folder that exists and is writable",
        )
    graph = bundle.graph(recipe.component)
    with signed_graph(graph) if recipe.component in bundle.manifest.quantized else nullcontext(graph) as readable:
        _run_builder(bundle, library, recipe, target, options, readable)


def _run_builder(
    bundle: Bundle, library: Library, recipe: EngineRecipe, target: Path, options: BuildOptions, graph: Path
) -> None:
    spec = bundle.manifest.components[recipe.component]
    profile = make_profile(bundle.manifest, spec, options)
    job = BuildJob(
        library=library,
        graph=str(graph),
        engine=str(target),
        shapes={tensor.name: tensor_shapes(bundle.manifest, tensor, profile) for tensor in spec.inputs},
        compute_capabilities=[divmod(int(each), 10) for each in recipe.hardware.removeprefix("sm").split("-sm")],
        optimization_level=options.optimization_level,
        workspace=_workspace(options),
        plugins=options.plugins == "always",
        tf32=options.tf32,
        version_compatible=options.version_compatible,
        timing_cache=str(options.timing_cache.absolute()) if options.timing_cache else None,
    )
    command = [sys.executable, "-m", "segrefine.engines.tensorrt.builder"]
    done = subprocess.run(command, input=job.to_json(), capture_output=True, text=True)
    if done.returncode:
        _raise_failure(recipe.component, done)


def _workspace(options: BuildOptions) -> int | None:
    """The scratch memory to allow, MiB: no more than is free, where the engine is for the GPU here."""
    if options.workspace is None or options.compute_capabilities:
        return options.workspace
    return max(1, min(options.workspace, open_gpu(0).free_memory() >> 20))


def _raise_failure(component: str, done: subprocess.CompletedProcess[str]) -> None:
    answer = done.stdout.strip().rpartition("\n")[2]
    kind, _, reason = answer.partition(": ")
    if kind == "disk":
        raise OutputError(
            f"cannot write its engine: {reason}", subject=component, hint="free some space, then build again"
        )
    said = done.stderr + done.stdout
    message, hint = explain_failure(said, done.returncode)
    raise EngineError(f"its engine was not built: {message}", subject=component, hint=hint) from RuntimeError(said)


def _hardware(module: ModuleType, library: Library, capabilities: Sequence[str]) -> str:
    """The GPUs of an engine, such as "sm86-sm89"."""
    if not capabilities:
        gpu = _gpu_here()
        check_capability(library, module, gpu)
        check_driver(module)
        return gpu
    if library == "tensorrt":
        raise BackendError(
            "it builds for the GPU of this machine only",
            subject="TensorRT",
            hint="leave --compute-capability out, or use --backend tensorrt-rtx",
        )
    known = {f"{each // 10}.{each % 10}" for each in rtx_capabilities(module)}
    if unknown := [capability for capability in capabilities if capability not in known]:
        raise BackendError(
            subject=f"TensorRT-RTX {module.__version__}",
            expected=f"a compute capability of {', '.join(sorted(known, key=float))}",
            got=repr(unknown[0]),
            hint="choose one of these",
        )
    wanted = sorted({int(capability.replace(".", "")) for capability in capabilities})
    return "-".join(f"sm{each}" for each in wanted)


def _gpu_here() -> str:
    try:
        return gpu_identity(0)
    except (BackendError, MissingDependencyError) as error:
        hint = "--backend tensorrt-rtx --compute-capability 8.9 builds for such a GPU, without one"
        raise BackendError(f"there is no GPU here to build for: {error}", hint=hint) from error
