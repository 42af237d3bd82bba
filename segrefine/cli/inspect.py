"""`segrefine inspect`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from segrefine.bundle import Bundle
from segrefine.cli.console import Console, table, with_console
from segrefine.cli.options import BundleFolder
from segrefine.errors import IntegrityError
from segrefine.spec import TensorSpec


@click.command()
@click.argument("bundle", type=BundleFolder())
@with_console
def inspect(console: Console, bundle: Path) -> None:
    """Show what BUNDLE (`demo` is the shipped one) holds, and check every file of it.

    Fails where a file is not what the manifest says.
    """
    opened = Bundle.open(bundle)
    problems = _check_files(opened)
    manifest = opened.manifest.to_dict()
    files = manifest.pop("files")
    engines = _list_engines(opened)
    listed = [{"path": name, **record, "ok": name not in problems} for name, record in files.items()]
    values = {"bundle": str(bundle), **manifest, "files": listed, "engines": engines, "intact": not problems}
    console.result(values, _describe(opened, problems, engines))
    if problems:
        raise next(iter(problems.values()))


def _check_files(bundle: Bundle) -> dict[str, IntegrityError]:
    """The files that are not what the manifest says, and why."""
    problems = {}
    for name in bundle.manifest.files:
        try:
            bundle.file(name)
        except IntegrityError as error:
            problems[name] = error
    return problems


def _list_engines(bundle: Bundle) -> list[dict[str, Any]]:
    """What the sidecars say, and whether each engine is of the graph that is in the bundle now."""
    from segrefine.engines.recipe import graph_hashes

    engines = []
    for sidecar in sorted(bundle.path.glob("engines/*/*/*.json")):
        try:
            said = json.loads(sidecar.read_text(encoding="utf-8"))
            entry = {key: said[key] for key in ("backend", "component", "version", "precision", "device", "hardware")}
            current = said["graph"] == graph_hashes(bundle, said["component"])
        except (OSError, ValueError, KeyError, TypeError):
            entry, current = {"backend": sidecar.parts[-3], "component": sidecar.parts[-2]}, False
        engines.append({**entry, "sidecar": sidecar.relative_to(bundle.path).as_posix(), "current": current})
    return engines


def _describe(bundle: Bundle, problems: Mapping[str, IntegrityError], engines: list[dict[str, Any]]) -> str:
    m = bundle.manifest
    side = m.sample_size * m.vae_scale_factor
    versions = ", ".join(f"{name} {version}" for name, version in m.versions.items())
    tensors = [
        (name, way, tensor.name, tensor.dtype, _shape(tensor))
        for name, spec in m.components.items()
        for way, side_ in (("in", spec.inputs), ("out", spec.outputs))
        for tensor in side_
    ]
    files = [(name, f"{r.size:,}", "damaged" if name in problems else "ok") for name, r in m.files.items()]
    built = [(e["backend"], e["component"], "current" if e["current"] else "stale", e["sidecar"]) for e in engines]
    return "\n\n".join(
        [
            f"{bundle.path}: {m.method}, {m.dtype}, opset {m.opset}, {m.prediction_type}\n"
            f"trained on {side}×{side} pixels, latents {m.latent_channels}×{m.sample_size}×{m.sample_size}\n"
            f"features from {', '.join(m.feature_taps)}\ncustom ops {', '.join(m.ops) or 'none'}\nmade by {versions}",
            table(("component", "", "tensor", "type", "shape"), tensors),
            table(("file", "bytes", ""), files),
            table(("backend", "component", "engine", "sidecar"), built) if built else "no engines built",
        ]
    )


def _shape(tensor: TensorSpec) -> str:
    return " × ".join(map(str, tensor.shape))
