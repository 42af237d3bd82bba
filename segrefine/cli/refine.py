"""`segrefine refine`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.cli.console import Console, stdout_errors, with_console
from segrefine.cli.inputs import max_megapixels_option, read_picture
from segrefine.cli.marks import MarkOptions, mark_options
from segrefine.cli.options import (
    Model,
    SettingsChoice,
    crop_option,
    guard_option,
    model_options,
    settings_options,
)
from segrefine.cli.outputs import STREAM, PictureFile, check_label_map, check_outputs, cutout_option
from segrefine.cli.paths import GivenPath
from segrefine.picture_formats import list_suffixes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segrefine.runtime.files.mask import CoarseMask
    from segrefine.runtime.pipeline import Refiner
    from segrefine.runtime.refinement import Refinement


@dataclass(frozen=True, kw_only=True)
class RefineOutputs:
    """The files to write; None leaves one out."""

    mask: Path
    probability: Path | None
    overlay: Path | None
    cutout: Path | None
    trace: Path | None

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield the files to write, each with its path."""
        for name in ("mask", "probability", "overlay", "cutout", "trace"):
            if (path := getattr(self, name)) not in (None, STREAM):
                yield name, path

    def write(self, image: NDArray[np.uint8], results: Sequence[Refinement], refiner: Refiner) -> None:
        """Write the files, each as a whole: of one mask, or of several as a label map."""
        from segrefine.runtime.files.output import save_cutout, save_image, save_label_map, save_mask, save_probability

        if self.cutout:
            save_cutout(self.cutout, image, [each.probability for each in results])
        if self.trace or self.overlay:
            from segrefine.runtime.drawing.pictures import overlay, overlay_labels, trace_sheet
        if len(results) > 1:
            from segrefine.runtime.refinement import label_map

            labels = label_map(each.probability for each in results)
            if self.overlay:
                save_image(self.overlay, overlay_labels(image, labels))
            save_label_map(self.mask, labels)
            return
        [result] = results
        if self.trace:
            save_image(self.trace, trace_sheet(image, result, refiner.decode))
        if self.overlay:
            save_image(self.overlay, overlay(image, result.mask))
        if self.probability:
            save_probability(self.probability, result.probability)
        if self.mask != STREAM:
            save_mask(self.mask, result.mask)
        else:
            with stdout_errors():
                _stream(result.mask)


@click.command(short_help="Refine the coarse mask of an image.")
@click.argument("image", type=GivenPath(allow_dash=True))
@click.argument("masks", metavar="[MASK …]", nargs=-1, type=GivenPath())
@click.option(
    "--label", "labels", required=True, multiple=True,
    help="Name of the masked object, such as fox. Give one for each MASK, in the same order.",
)  # fmt: skip
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=PictureFile(*list_suffixes(), stream=True),
    default="refined.png",
    show_default=True,
    help="Refined mask of 0 and 255: .png, .tif, .webp or .bmp; - is stdout. For several masks a label map.",
)
@click.option(
    "--probability",
    metavar="FILE",
    type=PictureFile(*list_suffixes("16 bits"), ".npy"),
    help="Also write the probability: .png or .tif of 16 bits, or float32 .npy.",
)
@click.option(
    "--overlay",
    metavar="FILE",
    type=PictureFile(*list_suffixes()),
    help="Also write the image with the mask drawn on it.",
)
@cutout_option
@click.option(
    "--trace",
    metavar="FILE",
    type=PictureFile(*list_suffixes()),
    help="Also write a picture that shows each round of the method.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed of the noise.")
@max_megapixels_option
@guard_option
@crop_option
@settings_options
@mark_options
@model_options
@with_console
def refine(
    console: Console, image: Path, masks: tuple[Path, ...], labels: tuple[str, ...], output: Path,
    probability: Path | None, overlay: Path | None, cutout: Path | None, trace: Path | None, seed: int,
    max_megapixels: float, guard: bool, crop: bool, choice: SettingsChoice, marks: MarkOptions, model: Model,
) -> None:  # fmt: skip
    """Refine the coarse MASK of IMAGE, or a mask made of boxes, points or strokes.

    IMAGE is a picture of any size; - is stdin. MASK is a picture of the same size, or a .npy with probabilities.
    Foreground is white, or any index above 0 of a palette. Several masks are refined together and compete for pixels.

    --box, --point and --scribble replace MASK. Everything outside of all boxes is background. Pixels under
    strokes and points are fixed, and the others are found.
    """
    outputs = RefineOutputs(mask=output, probability=probability, overlay=overlay, cutout=cutout, trace=trace)
    if console.json and output == STREAM:
        raise click.UsageError("--json and -o - both want stdout")
    _check_masks(masks, labels, marks, outputs)
    options = {"--output" if name == "mask" else f"--{name}": path for name, path in outputs.files()}
    inputs = {"the image to refine": image, "the strokes": marks.scribble}
    inputs |= {
        "the mask to refine" if len(masks) == 1 else f"mask {n} to refine": path for n, path in enumerate(masks, 1)
    }
    check_outputs(options, {name: path for name, path in inputs.items() if path})
    pixels = read_picture(console, image, max_megapixels)
    given = list(zip(labels, _read_coarse(pixels, masks, marks), strict=True))
    started = time.perf_counter()
    with model.open(choice) as refiner:
        loaded = time.perf_counter() - started
        with console.progress("refining") as tell:
            results = refiner(pixels, given, seed=seed, crop=crop, guard=guard, progress=tell)
        outputs.write(pixels, results, refiner)
    seconds = {"load": loaded, **results[0].seconds, "total": time.perf_counter() - started}
    summaries = [_summary(each) for each in results]
    values = {
        "image": str(image),
        "size": [pixels.shape[1], pixels.shape[0]],
        **(summaries[0] if len(summaries) == 1 else {"masks": summaries}),
        "settings": refiner.settings.to_dict(),
        "seconds": seconds,
        "peak_gpu_memory": model.peak_memory(),
        "model": model.to_dict(),
        "outputs": {name: str(path) for name, path in outputs.files()},
    }
    warnings = [warning for each in results for warning in _warnings(each, model)]
    if lack := model.describe_lack():
        warnings.append(lack)
    for warning in warnings:
        console.warn(warning)
    console.result(values, _describe(values, summaries, model), stdout=output != STREAM)


def _check_masks(masks: Sequence[Path], labels: Sequence[str], marks: MarkOptions, outputs: RefineOutputs) -> None:
    """Check that there is one mask for each label, or marks of one object, and that the outputs fit them.

    Raises:
        click.UsageError: it is otherwise.
    """
    if bool(masks) == bool(marks):
        raise click.UsageError("give MASK, or mark the object with --box, --point or --scribble; not both")
    if STREAM in (*masks, marks.scribble):
        raise click.UsageError("only IMAGE can be -, which is stdin; MASK and --scribble are files")
    if len(labels) != max(len(masks), 1):
        raise click.UsageError(f"give --label once for each MASK: expected {max(len(masks), 1)}, got {len(labels)}")
    single = {"--probability": outputs.probability, "--trace": outputs.trace, "-o -": outputs.mask == STREAM}
    if len(masks) > 1 and (given := [name for name, value in single.items() if value]):
        raise click.UsageError(f"{given[0]} is for one mask; refine each MASK alone for it")
    if len(masks) > 1 and outputs.mask.suffix.lower() not in (able := list_suffixes("palette")):
        raise click.UsageError(f"--output is a label map here: expected a name that ends in {', '.join(able)}")
    if len(masks) > 1:
        check_label_map(outputs.mask, len(masks))


def _read_coarse(
    image: NDArray[np.uint8], masks: Sequence[Path], marks: MarkOptions
) -> Sequence[NDArray[np.float32] | CoarseMask]:
    from segrefine.runtime.files.mask import load_mask

    return [load_mask(mask, (image.shape[0], image.shape[1])) for mask in masks] or [marks.draw(image)]


def _summary(result: Refinement) -> dict[str, Any]:
    from segrefine.runtime.imaging.metrics import iou

    coarse = result.coarse > 0.5
    return {
        "label": result.label,
        "iou_with_coarse": iou(coarse, result.mask),
        "changed": float((coarse != result.mask).mean()),
        "empty": not result.mask.any(),
        "evidence_worth": result.evidence_worth,
        "confidence": result.confidence,
        "confidence_threshold": result.confidence_threshold,
        "kept_coarse": result.kept_coarse,
        "kept_share": result.kept_share,
        "crop": result.crop,
    }


def _warnings(result: Refinement, model: Model) -> Iterator[str]:
    from segrefine.assets import VOCABULARIES, shipped_name

    label, name = result.label, shipped_name(model.folder)
    known = VOCABULARIES[name].labels if name else None
    if result.distrust:
        yield result.distrust
    if result.evidence_worth == 0:
        yield f"the model says nothing of {label!r} in this image: only the colours and edges of the image were used"
    if known and label.strip().casefold() not in known:
        yield f"{name} does not know {label!r}; it knows {', '.join(known)}; --bundle chooses another model"
    if not result.mask.any() and (result.coarse > 0.5).any():
        yield f"the refined mask is empty: the model found no {label} under the coarse mask; check --label and MASK"


def _describe(values: dict[str, Any], summaries: Sequence[dict[str, Any]], model: Model) -> str:
    seconds = dict(values["seconds"])
    total = seconds.pop("total")
    lines = [
        ("image", "{} ({}×{}), label {}".format(
            values["image"], *values["size"], ", ".join(each["label"] for each in summaries)
        )),
        ("model", model.describe()),
        *(line for each in summaries for line in _describe_mask(each)),
        ("time", f"{total:.2f} s: " + ", ".join(f"{stage} {spent:.2f}" for stage, spent in seconds.items())),
        ("wrote", ", ".join(values["outputs"].values()) or "stdout"),
    ]  # fmt: skip
    return "\n".join(f"{name:7}{text}" for name, text in lines)


def _describe_mask(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Lines on one mask, by their names."""
    mask = "{changed:.1%} of the pixels changed, IoU {iou_with_coarse:.3f} with the coarse mask"
    yield "mask", mask.format(**values)
    if values["evidence_worth"] is not None:
        yield "worth", "the model's evidence on {label!r} counts {evidence_worth:.2f} of 1".format(**values)
    if values["confidence"] is not None:
        guarded = "confidence {confidence:.3f}, at least {confidence_threshold:.3f} is needed"
        yield "guard", (guarded + "; {kept_share:.0%} of the change undone").format(**values)
    if values["crop"]:
        left, top, right, bottom = values["crop"]
        yield "crop", f"a small object: refined in {right - left}×{bottom - top} pixels around it (--no-crop: in all)"


def _stream(mask: NDArray[np.bool_]) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(mask.astype(np.uint8) * 255).save(sys.stdout.buffer, "PNG")
