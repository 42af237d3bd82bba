"""`segrefine inspect`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.bundle import Bundle
from segrefine.cli.console import Console, table, with_console
from segrefine.cli.options import BundleFolder
from segrefine.errors import EngineError, IntegrityError
from segrefine.spec import TensorSpec

if TYPE_CHECKING:
    from segrefine.cli.built_engines import BuiltEngine
    from segrefine.runtime.guard import Guard


@click.command(short_help="Show what a bundle holds, and check its files.")
@click.argument("bundle", type=BundleFolder())
@with_console
def inspect(console: Console, bundle: Path) -> None:
    """Show the content of BUNDLE, and check its files and its built engines.

    BUNDLE is a folder, `photo` or `photo-gs`. The command fails if a file differs from the manifest, or an engine is
    damaged. An engine that was built for other files or versions is no
    failure; build-engine builds it again.
    """
    from segrefine.cli.built_engines import list_engines
    from segrefine.runtime.guard import GUARD, read_guard

    opened = Bundle.open(bundle)
    problems = _check_files(opened)
    guard = None if GUARD in problems else read_guard(opened)
    manifest = opened.manifest.to_dict()
    files = manifest.pop("files")
    engines = list_engines(opened)
    damaged = [engine.problem for engine in engines if engine.problem]
    listed = [{"path": name, **record, "ok": name not in problems} for name, record in files.items()]
    values = {
        "bundle": str(bundle),
        **manifest,
        "files": listed,
        "guard": None if guard is None else dict(guard.about),
        "guard_fitted": None if guard is None else not _is_free(guard),
        "engines": [engine.to_dict() for engine in engines],
        "intact": not problems and not damaged,
    }
    fit = "" if GUARD in problems else _describe_fit(opened, guard)
    console.result(values, _describe(opened, problems, engines, fit))
    if problems:
        raise next(iter(problems.values()))
    if len(damaged) > 1:
        raise EngineError(f"{len(damaged)} engines are damaged; the first: {damaged[0]}", hint=damaged[0].hint)
    if damaged:
        raise damaged[0]


def _check_files(bundle: Bundle) -> dict[str, IntegrityError]:
    """The files that are not what the manifest says, and why."""
    problems = {}
    for name in bundle.manifest.files:
        try:
            bundle.file(name)
        except IntegrityError as error:
            problems[name] = error
    return problems


def _is_free(guard: Guard) -> bool:
    """Return whether a guard is the one that ships with segrefine: `tune` keeps it where a fitted one gains less."""
    from segrefine.runtime.guard import free_guard

    return replace(guard, about={}) == replace(free_guard(), about={})


def _describe_fit(bundle: Bundle, guard: Guard | None) -> str:
    """Describe the data to which settings and guard of a bundle were fitted; empty for a bundle that segments.

    Args:
        bundle: the bundle.
        guard: the one in it; None where it has none.
    """
    from segrefine.tuning.bundle_fit import hash_denoiser

    if bundle.manifest.method != "g4seg":
        return ""
    if guard is None:
        command = f"segrefine tune DATA TRUTH --bundle {shlex.quote(str(bundle.path))}"
        return f"settings and guard were not fitted to this model; `{command}` fits them"
    fitted = "settings" if _is_free(guard) else "settings and guard"
    about = guard.about
    lines = [f"{fitted} were fitted to"]
    for name, value in about.items():
        words = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, Mapping) else str(value)
        lines.append(f"  {name.replace('_', ' ')}: {words}")
    if "denoiser" in about and about["denoiser"] != hash_denoiser(bundle):
        lines.append("  this bundle has another denoiser: fit them again with `segrefine tune`")
    if _is_free(guard):
        lines.append("  the guard is the one that ships with segrefine: a fitted one gained less")
    return "\n".join(lines)


def _describe(bundle: Bundle, problems: Mapping[str, IntegrityError], engines: Sequence[BuiltEngine], fit: str) -> str:
    m = bundle.manifest
    side = m.sample_size * m.vae_scale_factor
    versions = ", ".join(f"{name} {version}" for name, version in m.versions.items())
    codec = ", ".join(f"{name} {value}" for name, value in m.label_codec.items())
    special = f"masks as latents: {codec}" if codec else f"features from {', '.join(m.feature_taps)}"
    tensors = [
        (name, way, tensor.name, tensor.dtype, _shape(tensor))
        for name, spec in m.components.items()
        for way, side_ in (("in", spec.inputs), ("out", spec.outputs))
        for tensor in side_
    ]
    files = [(name, f"{r.size:,}", "damaged" if name in problems else "ok") for name, r in m.files.items()]
    built = [(e.backend, e.component, e.state, e.sidecar) for e in engines]
    caches = [(e.component, machine, f"{size:,}") for e in engines for machine, size in e.caches.items()]
    return "\n\n".join(
        [
            f"{bundle.path}: {m.method}, {m.dtype}, opset {m.opset}, {m.prediction_type}\n"
            f"trained on {side}×{side} pixels, latents {m.latent_channels}×{m.sample_size}×{m.sample_size}\n"
            f"{special}\ncustom ops {', '.join(m.ops) or 'none'}\nmade by {versions}",
            *(f"{name} {describe_quantized(each)}" for name, each in m.quantized.items()),
            *([fit] if fit else []),
            table(("component", "", "tensor", "type", "shape"), tensors),
            table(("file", "bytes", ""), files),
            table(("backend", "component", "engine", "sidecar"), built) if built else "no engines built",
            *([table(("compiled kernels of", "for", "bytes"), caches)] if caches else []),
        ]
    )


def _shape(tensor: TensorSpec) -> str:
    return " × ".join(map(str, tensor.shape))


def describe_quantized(values: Mapping[str, Any]) -> str:
    """A quantized component in words, from what the manifest says of it."""
    left = f", {len(values['left_out'])} operators in float32" if values["left_out"] else ""
    return (
        f"in {values['scheme']}{left}: {values['masks']} masks have a mean IoU of {values['iou']:.4f} with those of "
        f"float32, the least {values['least_iou']:.4f}; a pass took {values['time']:.2f} of the time in float32"
    )
