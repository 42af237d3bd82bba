"""TensorRT and TensorRT-RTX: engines built ahead of time, for the sizes and the GPUs asked for.

TensorRT-RTX builds for any GPU, also on a machine without one; TensorRT for the GPU that it finds.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self, get_args

from segrefine.bundle import Bundle, Manifest
from segrefine.engines.cuda import open_gpu
from segrefine.engines.hardware import gpu_identity
from segrefine.engines.recipe import EngineRecipe, graph_hashes
from segrefine.engines.tensorrt_messages import explain_failure
from segrefine.errors import BackendError, EngineError, MissingDependencyError, OutputError, SettingsError, ShapeError
from segrefine.spec import MAX_PIXELS, ComponentSpec, ShapeProfile, TensorSpec

Library = Literal["tensorrt", "tensorrt-rtx"]
Plugins = Literal["auto", "always", "never"]
LIBRARIES: Mapping[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Backend → the module of its library."""

MOST_VALUES, MOST_WORKSPACE = (1 << 31) - 1, 1 << 20
"""What a tensor of a profile may have, and the scratch memory to allow, MiB: far more than any GPU takes."""

SYMBOLS = ("batch", "height", "width", "tokens")
"""The sizes that a profile names: height and width are those of latents, from which those of pixels follow."""


@dataclass(frozen=True, kw_only=True)
class TensorRtOptions:
    """What engines are built for.

    Attributes:
        min_shapes: the smallest sizes that an engine serves, by symbol, see `SYMBOLS`; what is left out has the
            default: one size of image, that of the model, and batches as large as the pipelines make them.
        opt_shapes: those that it is tuned to.
        max_shapes: the largest.
        compute_capabilities: the GPUs that an engine of TensorRT-RTX runs on, such as ("8.6", "8.9"); empty for the
            GPU of this machine.
        optimization_level: how long the builder searches, 0 to 5; None for its own choice.
        workspace: scratch memory that an engine may use, MiB; None for its own choice.
        plugins: whether the custom ops become plugins, with TensorRT: "always", "never", or "auto" where a plugin has
            measured faster than the functions that the ops are lowered to; none has so far.
        timing_cache: a file that remembers the builder's measurements from one build to the next.
    """

    min_shapes: Mapping[str, int] | None = None
    opt_shapes: Mapping[str, int] | None = None
    max_shapes: Mapping[str, int] | None = None
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    workspace: int | None = None
    plugins: Plugins = "auto"
    timing_cache: Path | None = None

    @classmethod
    def of(cls, recipe: EngineRecipe) -> Self:
        """What builds an engine of TensorRT by a recipe anew."""
        smallest, tuned, largest = recipe.limits
        given = {name: value for name, value in recipe.options.items() if value is not None}
        rtx = recipe.backend == "tensorrt-rtx"
        return cls(
            min_shapes=smallest,
            opt_shapes=tuned,
            max_shapes=largest,
            compute_capabilities=recipe.compute_capabilities if rtx else (),
            **given,
        )

    def __post_init__(self) -> None:
        """Raises SettingsError where a value is none of those that there are."""
        if isinstance(self.compute_capabilities, str):
            raise SettingsError(f"compute_capabilities is {self.compute_capabilities!r}, expected a tuple")
        if self.optimization_level not in (None, *range(6)):
            raise SettingsError(f"optimization_level is {self.optimization_level}, expected 0 to 5")
        if self.workspace is not None and not 1 <= self.workspace <= MOST_WORKSPACE:
            raise SettingsError(f"workspace is {self.workspace} MiB, expected 1 to {MOST_WORKSPACE}")
        for each in self.compute_capabilities:
            if not isinstance(each, str) or not re.fullmatch(r"\d+\.\d", each):
                raise SettingsError(f"compute capability {each!r}: expected major and minor version, such as '8.9'")
        if isinstance(self.timing_cache, str):
            raise SettingsError(f"timing_cache is {self.timing_cache!r}, expected a Path")
        if self.plugins not in get_args(Plugins):
            raise SettingsError(f"plugins is {self.plugins!r}, expected one of {', '.join(get_args(Plugins))}")


def tensorrt_recipe(bundle: Bundle, component: str, library: Library, options: TensorRtOptions) -> EngineRecipe:
    """What an engine of this component is made from.

    Raises:
        BackendError: the library cannot build for these GPUs, or there is none.
        BundleError: there is no such component.
        MissingDependencyError: the library is not installed.
        ShapeError: the shapes do not go together.
    """
    if library == "tensorrt-rtx" and options.plugins == "always":
        raise BackendError("TensorRT-RTX has no plugins", hint="leave --plugins out, or take --backend tensorrt")
    check_builder(library)
    hashes, module = graph_hashes(bundle, component), import_library(library)
    profile = _profile(bundle.manifest, bundle.manifest.components[component], options)
    sizes = {symbol: [str(limit[symbol]) for limit in _limits(profile)] for symbol in profile.opt}
    return EngineRecipe(
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
        },
    )


def build_tensorrt(bundle: Bundle, recipe: EngineRecipe, target: Path, options: TensorRtOptions) -> None:
    """Writes the engine of `recipe` to `target`.

    The builder runs in a process of its own: a library that crashes takes nothing with it, its gigabytes are given back
    at the end, and Polygraphy, through which it is driven, knows one of the two libraries in a process.

    Raises:
        EngineError: the builder failed; the message says why, the hint what to do.
        OutputError: the engine cannot be written.
    """
    if options.timing_cache and not os.access(options.timing_cache.absolute().parent, os.W_OK):
        message = f"cannot write the timing cache {options.timing_cache}: its folder is not there, or read-only"
        raise OutputError(message, hint="choose a folder that exists and is writable")
    spec = bundle.manifest.components[recipe.component]
    profile = _profile(bundle.manifest, spec, options)
    job = {
        "graph": str(bundle.graph(recipe.component)),
        "engine": str(target),
        "library": LIBRARIES[recipe.backend],
        "shapes": {tensor.name: _shapes(bundle.manifest, tensor, profile) for tensor in spec.inputs},
        "compute_capabilities": [divmod(int(each), 10) for each in recipe.hardware.removeprefix("sm").split("-sm")],
        "optimization_level": options.optimization_level,
        "workspace": _workspace(options),
        "plugins": options.plugins == "always",
        "timing_cache": options.timing_cache and str(options.timing_cache.absolute()),
    }
    command = [sys.executable, "-m", "segrefine.engines.tensorrt_builder"]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True)
    if done.returncode:
        _raise_failure(recipe.component, done)


def _workspace(options: TensorRtOptions) -> int | None:
    """The scratch memory to allow, MiB: no more than is free, where the engine is for the GPU here."""
    if options.workspace is None or options.compute_capabilities:
        return options.workspace
    return max(1, min(options.workspace, open_gpu(0).free_memory() >> 20))


def _raise_failure(component: str, done: subprocess.CompletedProcess[str]) -> None:
    answer = done.stdout.strip().rpartition("\n")[2]
    kind, _, reason = answer.partition(": ")
    if kind == "disk":
        raise OutputError(f"cannot write the engine of {component}: {reason}", hint="make room, then build again")
    said = done.stderr + done.stdout
    message, hint = explain_failure(said, done.returncode)
    raise EngineError(f"the engine of {component} was not built: {message}", hint=hint) from RuntimeError(said)


def import_library(library: Library) -> ModuleType:
    """The module of a library that can build.

    Raises:
        MissingDependencyError: it is not installed, or only the part that runs engines.
    """
    name = LIBRARIES[library]
    if found := import_first((name, f"{name}_bindings"), "Builder"):  # the wheels may lack their meta-package
        sys.modules.setdefault(name, found)
        return found
    raise MissingDependencyError(
        f"the builder of {library} is not installed", hint=f'install it: pip install "segrefine[{library}]"'
    )


def import_first(names: Sequence[str], what: str) -> ModuleType | None:
    """The first of these modules that is installed and has `what`; None where none is."""
    for name in names:
        try:
            found = import_module(name)
        except ImportError:
            continue
        if hasattr(found, what):
            return found
    return None


def check_builder(library: Library) -> None:
    """Checks that engines can be built with a library.

    Raises:
        MissingDependencyError: the library is not installed, or Polygraphy, which drives it.
    """
    import_library(library)
    if find_spec("polygraphy") is None:
        hint = f'install it: pip install "segrefine[{library}]"'
        raise MissingDependencyError("the package polygraphy is not installed", hint=hint)


def _hardware(module: ModuleType, library: Library, capabilities: Sequence[str]) -> str:
    """The GPUs of an engine, such as "sm86-sm89"."""
    if not capabilities:
        try:
            return gpu_identity(0)
        except (BackendError, MissingDependencyError) as error:
            hint = "--backend tensorrt-rtx --compute-capability 8.9 builds for such a GPU, without one"
            raise BackendError(f"there is no GPU here to build for: {error}", hint=hint) from error
    if library == "tensorrt":
        raise BackendError(
            "TensorRT builds for the GPU of this machine alone",
            hint="leave --compute-capability out, or take --backend tensorrt-rtx",
        )
    known = {each.removeprefix("SM") for each in dir(module.ComputeCapability) if each.startswith("SM")}
    wanted = {capability.replace(".", "") for capability in capabilities}
    if unknown := [capability for capability in capabilities if capability.replace(".", "") not in known]:
        named = ", ".join(f"{each[:-1]}.{each[-1]}" for each in sorted(known, key=int))
        raise BackendError(
            f"TensorRT-RTX {module.__version__} does not build for compute capability {unknown[0]!r}",
            hint=f"choose from {named}",
        )
    return "-".join(f"sm{each}" for each in sorted(wanted, key=int))


def _limits(profile: ShapeProfile) -> tuple[Mapping[str, int], ...]:
    return profile.min, profile.opt, profile.max


def _profile(manifest: Manifest, spec: ComponentSpec, options: TensorRtOptions) -> ShapeProfile:
    """The sizes of the symbols that a component has, in latent pixels."""
    given = [dict(each or {}) for each in (options.min_shapes, options.opt_shapes, options.max_shapes)]
    if unknown := sorted({symbol for each in given for symbol in each} - set(SYMBOLS)):
        raise ShapeError(f"there is no size {unknown[0]!r}", hint=f"name any of: {', '.join(SYMBOLS)}")
    side = manifest.sample_size
    fixed = {"height": side, "width": side, "tokens": manifest.tokens}
    batches = 1, 2, max(2, MAX_PIXELS // side**2)
    limits = _reconcile([fixed | {"batch": batch} for batch in batches], given)
    if limits[-1]["tokens"] > manifest.tokens:
        raise ShapeError(
            f"max tokens is {limits[-1]['tokens']}, but the model's prompts have at most {manifest.tokens}"
        )
    symbols = {symbol for tensor in spec.inputs for symbol in tensor.shape if isinstance(symbol, str)}
    pixels = symbols & {"pixels", "image_height", "image_width"}
    wanted = [each for each in SYMBOLS if each in symbols or (pixels and each in ("height", "width"))]
    profile = ShapeProfile(*({symbol: limit[symbol] for symbol in wanted} for limit in limits))
    for tensor in spec.inputs:
        if math.prod(shape := _shapes(manifest, tensor, profile)[-1]) > MOST_VALUES:
            raise ShapeError(
                f"{spec.name}: the largest {tensor.name!r} would be {tuple(shape)}, more than {MOST_VALUES:,} values",
                hint="smaller --max-shapes; height and width are those of latents",
            )
    return profile


def _reconcile(defaults: Sequence[Mapping[str, int]], given: Sequence[Mapping[str, int]]) -> list[dict[str, int]]:
    """Smallest, tuned and largest sizes: those given, and defaults that make way for them."""
    smallest, tuned, largest = ({**default, **each} for default, each in zip(defaults, given, strict=True))
    for symbol in tuned:
        if symbol not in given[1]:
            tuned[symbol] = max(tuned[symbol], given[0].get(symbol, 1))
            tuned[symbol] = min(tuned[symbol], given[2].get(symbol, tuned[symbol]))
        if symbol not in given[0]:
            smallest[symbol] = min(smallest[symbol], tuned[symbol])
        if symbol not in given[2]:
            largest[symbol] = max(largest[symbol], tuned[symbol])
    return [smallest, tuned, largest]


def _shapes(manifest: Manifest, tensor: TensorSpec, profile: ShapeProfile) -> list[list[int]]:
    """The smallest, tuned and largest shape of a tensor."""
    factor, shapes = manifest.vae_scale_factor, []
    for limit in _limits(profile):
        sizes: dict[str, Any] = dict(limit)
        if "height" in limit:
            height, width = limit["height"], limit["width"]
            sizes |= {"pixels": height * width, "image_height": height * factor, "image_width": width * factor}
        shapes.append([sizes[each] if isinstance(each, str) else each for each in tensor.shape])
    return shapes
