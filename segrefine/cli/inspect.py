"""`segrefine inspect`: what is in a bundle, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

import click

from segrefine.cli.console import common_options, show


@click.command("inspect")
@click.argument("bundle", type=click.Path(path_type=Path))
@common_options
def command(bundle: Path, as_json: bool) -> None:
    """Show what BUNDLE holds (a path, or: demo), and check every file of it."""
    from segrefine.assets import demo_bundle
    from segrefine.bundle import Bundle

    opened = Bundle.open(demo_bundle() if str(bundle) == "demo" else bundle)
    opened.verify()
    manifest = opened.manifest
    engines = sorted(path.relative_to(opened.path).as_posix() for path in opened.path.glob("engines/*/*/*.json"))
    lines = [
        f"{opened.path}: {manifest.method}, {manifest.dtype}, opset {manifest.opset}, {manifest.prediction_type}",
        f"latents {manifest.latent_channels}×{manifest.sample_size}×{manifest.sample_size}, "
        f"images {manifest.sample_size * manifest.vae_scale_factor} pixels, "
        f"features from {', '.join(manifest.feature_taps)}",
        "",
    ]
    for spec in manifest.components.values():
        lines.append(f"{spec.name}  ({manifest.graphs[spec.name]})")
        lines += [
            f"    {arrow} {tensor.name}: {tensor}"
            for arrow, tensors in (("→", spec.inputs), ("←", spec.outputs))
            for tensor in tensors
        ]
    size = sum(record.size for record in manifest.files.values()) / 1e6
    lines += ["", f"{len(manifest.files)} files, {size:.1f} MB, all as recorded; {len(engines)} engines built"]
    show(manifest.to_dict() | {"path": str(opened.path), "engines": engines}, "\n".join(lines), as_json=as_json)
