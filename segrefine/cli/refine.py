"""`segrefine refine`: one image, one coarse mask, one sharp mask."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from segrefine.assets import demo_bundle
from segrefine.cli.console import check_output, common_options, engine_options, note, progress_bar, show
from segrefine.errors import OutputError

_FILE = click.Path(path_type=Path)


@click.command("refine")
@click.argument("image")
@click.argument("mask", type=_FILE)
@click.option("--label", required=True, help="What the mask shows, such as: fox.")
@click.option("-o", "--output", type=_FILE, help="The mask as PNG, - for stdout  [default: IMAGE-refined.png]")
@click.option("--probability", type=_FILE, help="Also write the probability: 16-bit PNG, or .npy.")
@click.option("--overlay", type=_FILE, help="Also write the image with the mask over it.")
@click.option("--trace", type=_FILE, help="Also write a contact sheet of every round.")
@click.option("--seed", default=0, show_default=True, help="Of the noise.")
@engine_options
@common_options
def command(
    image: str,
    mask: Path,
    label: str,
    output: Path | None,
    probability: Path | None,
    overlay: Path | None,
    trace: Path | None,
    seed: int,
    bundle: Path | None,
    backend: str,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Refine the coarse MASK of what LABEL names in IMAGE (a file, or - for stdin)."""
    from segrefine.runtime import pictures
    from segrefine.runtime.image import load_image
    from segrefine.runtime.mask import load_mask
    from segrefine.runtime.output import save_image, save_probability
    from segrefine.runtime.pipeline import Refiner

    output = output or _default_output(image)
    check_output(output, probability, overlay, trace)
    pixels = load_image(click.get_binary_stream("stdin").read() if image == "-" else image)
    coarse = load_mask(mask, (pixels.shape[0], pixels.shape[1]))
    if bundle is None:
        note("no --bundle given: the demo model serves, which knows sixteen words (segrefine inspect lists them)")
    with (
        Refiner.from_bundle(bundle or demo_bundle(), backend=backend, device=device, threads=threads) as refine,
        progress_bar(1, "refining") as bar,
    ):
        result = refine(pixels, coarse, label, seed=seed, progress=lambda _, share: bar.update(share - bar.n) and None)
        if trace:
            save_image(trace, pictures.trace_sheet(pixels, coarse, result, refine.decode, f'"{label}"'))
    _write_mask(output, result.mask)
    if probability:
        save_probability(probability, result.probability)
    if overlay:
        save_image(overlay, pictures.overlay(pixels, result.mask))
    summary = _summary(coarse > 0.5, result.mask) | {"label": label, "backend": backend, "demo_model": bundle is None}
    written = {"mask": output, "probability": probability, "overlay": overlay, "trace": trace}
    summary["files"] = {name: str(file) for name, file in written.items() if file}
    summary["seconds"] = {stage: round(seconds, 4) for stage, seconds in result.seconds.items()}
    text = (
        f"{label}: {summary['changed']:.1%} of {summary['width']}×{summary['height']} pixels changed, "
        f"IoU with the coarse mask {summary['iou_with_coarse']:.3f}, {sum(result.seconds.values()):.2f} s → {output}"
    )
    show(summary, text, as_json=as_json, err=str(output) == "-")


def _default_output(image: str) -> Path:
    if image == "-":
        raise OutputError("an image from stdin has no name to derive the mask's from", hint="add -o FILE, or -o -")
    return Path(image).with_name(Path(image).stem + "-refined.png")


def _write_mask(output: Path, mask: NDArray[np.bool_]) -> None:
    from PIL import Image

    from segrefine.runtime.output import save_mask

    if str(output) != "-":
        save_mask(output, mask)
        return
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    click.get_binary_stream("stdout").write(buffer.getvalue())


def _summary(coarse: NDArray[np.bool_], mask: NDArray[np.bool_]) -> dict[str, Any]:
    from segrefine.runtime.metrics import iou

    return {
        "width": mask.shape[1],
        "height": mask.shape[0],
        "iou_with_coarse": round(iou(coarse, mask), 4),
        "changed": round(float((coarse != mask).mean()), 4),
        "foreground": round(float(mask.mean()), 4),
    }
