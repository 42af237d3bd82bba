"""Check which TensorRT engines of a bundle this machine can run, from their sidecars, before any is loaded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from segrefine.bundle import Bundle
from segrefine.engines.hardware import version_numbers
from segrefine.engines.recipe import check_files, graph_hashes, read_recipe
from segrefine.engines.tensorrt.libraries import Library
from segrefine.engines.tensorrt.recipe import TensorRtRecipe
from segrefine.errors import EngineError, EngineWarning
from segrefine.storage import read_json_object


def find_tensorrt_engines(
    bundle: Bundle, component: str, library: Library, *, version: str, hardware: str, lean: bool = False
) -> list[tuple[Path, TensorRtRecipe]]:
    """The engines of a component that this machine can run, with their recipes; their files are checked.

    Of several for the same sizes it is the one that was built last. A damaged one is left out, with an `EngineWarning`.

    Args:
        bundle: the bundle.
        component: one of its graphs.
        library: what runs the engines.
        version: of the library here.
        hardware: the GPU here, such as "sm89".
        lean: whether only TensorRT's lean runtime is installed.

    Raises:
        EngineError: there is none; the message says for each one why it does not fit, the hint how to build it.
    """
    hashes = graph_hashes(bundle, component)
    folder = bundle.path / "engines" / library / component
    command = f"{TensorRtRecipe.rebuild_all_command(bundle, library, 'cuda')} --components {component}"
    found: dict[str, tuple[Path, TensorRtRecipe]] = {}
    problems: dict[str, str] = {}
    damaged: list[str] = []
    for sidecar in sorted(folder.glob("*_sm*.json"), key=lambda path: path.stat().st_mtime_ns):
        try:
            content = read_json_object(sidecar, EngineError, hint=command)
            recipe = replace(read_recipe(content, TensorRtRecipe), component=component, backend=library, device="cuda")
            command = _build_for(recipe, hardware).rebuild_command(bundle)
            if content.get("key") != recipe.key:
                raise EngineError("its sidecar was altered, its key does not match")
            if misfit := _find_misfit(recipe, hashes, version, hardware, lean):
                problems[sidecar.name] = misfit
                continue
            path = check_files(bundle, sidecar, content, recipe, hint=command)
            found[recipe.profile] = path, recipe  # the one that was built last, where options make several
        except EngineError as error:
            problems[sidecar.name] = str(error)
            damaged.append(f"an engine of {component} is left out, {sidecar.name}: {error}; build it again: {command}")
    told = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
    if found:
        for message in damaged:
            warnings.warn(message, EngineWarning, stacklevel=2)
        return list(found.values())
    if not problems:
        raise EngineError(
            f"it has no {library} engine of {component}; TensorRT only runs engines you have built",
            subject=bundle.path,
            hint=f"build it: {command}",
        )
    raise EngineError(
        f"no {library} engine fits here: {told}",
        subject=component,
        expected=f"one for {library} {version} and {hardware}",
        hint=f"build it again: {command}",
    )


def _build_for(recipe: TensorRtRecipe, hardware: str) -> TensorRtRecipe:
    """The recipe that also names the GPU here."""
    named = recipe.hardware.split("-")
    return recipe if hardware in named else replace(recipe, hardware="-".join([*named, hardware]))


def _find_misfit(
    recipe: TensorRtRecipe, hashes: Mapping[str, str], version: str, hardware: str, lean: bool
) -> str | None:
    """Return the reason an engine does not fit: another graph, library or GPU."""
    if dict(recipe.graph) != dict(hashes):
        return "the graph was exported again after the engine was built"
    if hardware not in recipe.hardware.split("-"):
        return f"built for {recipe.hardware}"
    if not recipe.options.get("version_compatible"):
        if lean:
            return "built without --version-compatible, which TensorRT's lean runtime needs"
        return None if recipe.version == version else f"built by version {recipe.version}"
    if _serves(version, recipe.version):
        return None
    return f"built by version {recipe.version}, which needs a runtime of that version or a later minor one"


def _serves(runtime: str, built: str) -> bool:
    """Return whether a TensorRT runtime loads a version-compatible engine: same major version, and not older."""
    here, there = version_numbers(runtime), version_numbers(built)
    return here[0] == there[0] and here >= there
