"""Which of a bundle's TensorRT engines this machine can run, told from their sidecars before any is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from segrefine.bundle import Bundle
from segrefine.engines.recipe import EngineRecipe, check_files, graph_hashes, read_sidecar, rebuild_command
from segrefine.engines.tensorrt import Library
from segrefine.errors import EngineError


def find_tensorrt_engines(
    bundle: Bundle, component: str, library: Library, *, version: str, hardware: str
) -> list[tuple[Path, EngineRecipe]]:
    """The engines of a component that this machine can run, with their recipes; their files are checked.

    Args:
        bundle: the bundle.
        component: one of its graphs.
        library: what runs the engines.
        version: of the library here.
        hardware: the GPU here, such as "sm89".

    Raises:
        EngineError: there is none; the message says for each one why it does not fit, the hint how to build it.
    """
    hashes = graph_hashes(bundle, component)
    folder = bundle.path / "engines" / library / component
    command = f"{rebuild_command(bundle, library, 'cuda')} --components {component}"
    found, problems = [], []
    for sidecar in sorted(folder.glob("*_sm*.json")):
        try:
            content = read_sidecar(sidecar, hint=command)
            recipe = _read_recipe(content)
            _check_fit(recipe, hashes, version, hardware)
            found.append((check_files(bundle, sidecar, content, recipe, hint=command), recipe))
        except EngineError as error:
            problems.append(f"{sidecar.name}: {error}")
    if found:
        return found
    if not problems:
        message = f"{bundle.path} has no {library} engine of {component}; TensorRT runs what was built before"
        raise EngineError(message, hint=f"build it: {command}")
    raise EngineError(
        f"no {library} engine of {component} fits here ({library} {version}, {hardware}): {'; '.join(problems)}",
        hint=f"build it again: {command}",
    )


def _read_recipe(content: Mapping[str, Any]) -> EngineRecipe:
    """The recipe in a sidecar.

    Raises:
        EngineError: it lacks an entry, or was altered.
    """
    try:
        recipe = EngineRecipe(**{field.name: content[field.name] for field in fields(EngineRecipe)})
    except KeyError as error:
        raise EngineError(f"its sidecar has no entry {error}") from error
    if content.get("key") != recipe.key:
        raise EngineError("its sidecar was altered, its key does not match")
    return recipe


def _check_fit(recipe: EngineRecipe, hashes: Mapping[str, str], version: str, hardware: str) -> None:
    """Raises EngineError where an engine was built from another graph, or for another library or GPU."""
    if dict(recipe.graph) != dict(hashes):
        raise EngineError("the graph was exported anew since it was built")
    if hardware not in recipe.hardware.split("-"):
        raise EngineError(f"built for {recipe.hardware}")
    if recipe.backend == "tensorrt-rtx":
        if recipe.version != version:
            raise EngineError(f"built by version {recipe.version}")
    elif not _serves(version, recipe.version):
        raise EngineError(
            f"built by version {recipe.version}, which needs a runtime of that version or a later minor one"
        )


def _serves(runtime: str, built: str) -> bool:
    """Whether a runtime of full TensorRT loads a version-compatible engine: same major version, not older."""
    here, there = ([int(part) for part in version.split(".")[:3]] for version in (runtime, built))
    return here[0] == there[0] and here >= there
