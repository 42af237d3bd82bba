"""`segrefine segment`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.cli.asked import Asked, find_spans
from segrefine.cli.console import Console, table, with_console
from segrefine.cli.inputs import max_megapixels_option, read_picture
from segrefine.cli.options import (
    BundleFolder,
    Model,
    SamplerName,
    SettingsChoice,
    model_options,
    settings_options,
)
from segrefine.cli.outputs import PictureFile, check_label_map, cutout_option
from segrefine.cli.paths import GivenPath
from segrefine.cli.segment_outputs import SegmentOutputs
from segrefine.picture_formats import list_suffixes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segrefine.runtime.segmentation import Segmentation
    from segrefine.settings import GsSettings, ZeroShotSettings


_SETTINGS = {"guidance": "guidance_scale", "image_guidance": "image_guidance_scale"}
"""Settings whose options have shorter names."""
SPREAD_SAMPLES = 4
"""How many samples are drawn where their spread is asked for, and nothing says how many."""


@click.command(short_help="Segment what phrases name in an image.")
@click.argument("image", type=GivenPath(allow_dash=True))
@click.argument("phrases", metavar='["PHRASE" …]', nargs=-1)
@click.option(
    "--caption",
    help="Sentence instead of phrases. Its noun phrases are segmented; if it has [brackets], only the parts in them.",
)
@click.option(
    "--classes",
    metavar="LIST",
    help="Instead of phrases: a class list (voc, coco-object, …) or a JSON file of names by index. Gives a label "
    "map of the classes found in the image.",
)
@click.option(
    "-o", "--output", metavar="FILE", type=PictureFile(*list_suffixes("palette")), default="segments.png",
    show_default=True,
    help="Label map: a palette picture with phrase 1, 2, …; 0 is none of them. Takes .png, .tif, .bmp.",
)  # fmt: skip
@click.option(
    "--overlay",
    metavar="FILE",
    type=PictureFile(*list_suffixes()),
    help="Also write the image with the label map over it.",
)
@cutout_option
@click.option(
    "--sheet", metavar="FILE", type=PictureFile(*list_suffixes()),
    help="Also write a sheet with mask, probability and uncertainty of every phrase.",
)  # fmt: skip
@click.option(
    "--maps", metavar="DIR", type=GivenPath(file_okay=False),
    help="Also write mask and probability (16-bit PNG) of every phrase into this folder.",
)  # fmt: skip
@click.option("--uncertainty", is_flag=True, help="Also write an uncertainty map of each phrase; needs --maps.")
@click.option(
    "--samples", type=click.IntRange(min=1),
    help=f"Masks drawn for each phrase, and averaged. With --uncertainty or --sheet the default is {SPREAD_SAMPLES}.",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Steps of the sampler.")
@click.option("--sampler", type=SamplerName(), help="Diffusion sampler.  [default: the model's]")
@click.option(
    "--guidance", type=click.FloatRange(min=0), help="Classifier-free guidance by the phrase; 1 switches it off."
)
@click.option(
    "--image-guidance", type=click.FloatRange(min=0), help="Classifier-free guidance by the image; 1 switches it off."
)
@settings_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed of the noise.")
@max_megapixels_option
@click.option(
    "--zero-shot",
    is_flag=True,
    help="Find phrases with a text-to-image model. If --bundle names such a model, this is on.",
)
@click.option(
    "--refine/--no-refine",
    default=None,
    help="Refine the masks with G4Seg.  [default: on with --zero-shot, otherwise off]",
)
@click.option(
    "--refine-bundle",
    metavar="PATH",
    type=BundleFolder(),
    help="Model that refines the masks.  [default: the model that found them, if zero-shot; otherwise photo]",
)
@model_options
@with_console
def segment(
    console: Console, /, image: Path, phrases: tuple[str, ...], caption: str | None, classes: str | None, output: Path,
    overlay: Path | None, cutout: Path | None, sheet: Path | None, maps: Path | None, uncertainty: bool, seed: int,
    max_megapixels: float, zero_shot: bool, refine: bool | None, refine_bundle: Path | None, model: Model,
    choice: SettingsChoice, **sampling: Any,
) -> None:  # fmt: skip
    """Segment the objects in IMAGE that each PHRASE names.

    IMAGE is a picture of any size; - is stdin. A phrase names one object or several: "the red car", "all apples".
    """
    asked = find_spans(phrases, caption, classes)
    texts = asked.texts
    zero_shot = zero_shot or _is_text_to_image(console, model)
    refine = zero_shot if refine is None else refine
    sampling = {name: value for name, value in sampling.items() if value is not None}
    _check_options(zero_shot, refine, refine_bundle, uncertainty, sampling)
    outputs = SegmentOutputs(
        labels=output, overlay=overlay, cutout=cutout, sheet=sheet, maps=maps, uncertainty=uncertainty
    )
    outputs.check(image, texts)
    check_label_map(output, max(asked.nothing, *asked.numbers))
    pixels = read_picture(console, image, max_megapixels)
    started = time.perf_counter()
    with _open(model, choice, zero_shot) as segmenter:
        spread = (uncertainty or sheet is not None) and not choice.names("samples")
        settings = _settings_for(segmenter.settings, sampling, spread=spread, refine=refine)
        loaded = time.perf_counter() - started
        with console.progress("segmenting") as tell:
            result = segmenter(pixels, texts, settings=settings, seed=seed, progress=tell)
    if refine:
        refining = replace(model, bundle=refine_bundle or (model.bundle if zero_shot else None))
        result = _refine(console, pixels, result, seed, refining, jointly=zero_shot)
    asked, result = asked.drop_absent(result)
    if asked.closed and not asked.spans:
        console.warn(f"none of the {len(texts)} classes was found in the image")
    values: dict[str, Any] = {
        "image": str(image),
        "size": [pixels.shape[1], pixels.shape[0]],
        "caption": asked.caption,
        "method": settings.method,
        "segments": list(_entries(asked, result)),
        "settings": settings.to_dict(),
        "refined": refine,
        "outputs": outputs.write(pixels, result, asked.numbers, asked.nothing),
        "seconds": {"load": loaded, **result.seconds, "total": time.perf_counter() - started},
        "peak_gpu_memory": model.peak_memory(),
        "model": model.to_dict(),
    }
    told = _warnings(values["segments"], model, "photo" if zero_shot else "photo-gs")
    for warning in (*outputs.warnings(texts), *told):
        console.warn(warning)
    console.result(values, _describe(values, model))


def _is_text_to_image(console: Console, model: Model) -> bool:
    """Return whether the bundle has no label denoiser, so that phrases are found zero-shot; says so."""
    from segrefine.bundle import Bundle

    if model.bundle is None or Bundle.open(model.bundle).manifest.method == "gs":
        return False
    console.warn(f"{model.bundle} has no label denoiser: it finds phrases zero-shot, by its attention")
    return True


def _check_options(
    zero_shot: bool, refine: bool, refine_bundle: Path | None, uncertainty: bool, sampling: dict[str, Any]
) -> None:
    """Check that the options go together.

    Raises:
        click.UsageError: two of them do not.
    """
    if refine_bundle and not refine:
        raise click.UsageError("--refine-bundle says what refines: add --refine")
    if zero_shot and (sampling or uncertainty):
        given = [f"--{name.replace('_', '-')}" for name in sampling] + ["--uncertainty"] * uncertainty
        message = f"{given[0]} belongs to label diffusion, which draws samples; zero-shot segmentation draws none"
        raise click.UsageError(f"{message}; --set changes its settings")
    if uncertainty and sampling.get("samples") == 1:
        raise click.UsageError(f"one sample has no spread: leave --samples out, or take --samples {SPREAD_SAMPLES}")


def _open(model: Model, choice: SettingsChoice, zero_shot: bool) -> Any:
    """Open the model that finds phrases; the caller closes it."""
    return model.open_zero_shot(choice) if zero_shot else model.open_segmenter(choice)


def _settings_for(
    own: GsSettings | ZeroShotSettings, sampling: dict[str, Any], *, spread: bool, refine: bool
) -> GsSettings | ZeroShotSettings:
    """The model's settings for one image.

    Args:
        own: those of the model.
        sampling: those that options named. Only label diffusion has them.
        spread: whether the spread of several samples is to be seen.
        refine: whether the masks are refined afterwards.
    """
    if own.method == "zero-shot":
        return own.for_refining() if refine else own
    wanted = {_SETTINGS.get(name, name): value for name, value in sampling.items()}
    if spread and own.samples == 1:
        wanted = {"samples": SPREAD_SAMPLES} | wanted
    return replace(own, **wanted)


def _refine(
    console: Console, image: NDArray[np.uint8], result: Segmentation, seed: int, model: Model, *, jointly: bool
) -> Segmentation:
    from segrefine.runtime.chain import refine_segments

    began = time.perf_counter()
    with model.open() as refiner, console.progress("refining") as tell:
        refined = refine_segments(refiner, image, result, jointly=jointly, seed=seed, progress=tell)
    return replace(refined, seconds={**result.seconds, "refine": time.perf_counter() - began})


def _warnings(entries: Sequence[dict[str, Any]], model: Model, default: str) -> Iterator[str]:
    """Yield warnings about the phrases.

    Args:
        entries: what was found.
        model: what found it.
        default: the word of the model that serves where none was named.
    """
    from segrefine.assets import VOCABULARIES

    name = model.shipped or default
    vocabulary = VOCABULARIES[name] if model.is_shipped else None
    if vocabulary and (unknown := vocabulary.unknown(entry["phrase"] for entry in entries)):
        what = ", ".join(map(repr, unknown))
        yield f"{name} does not know {what}; it knows {vocabulary.known}; --bundle chooses another model"
    for entry in entries:
        if not entry["area"]:
            yield f"nothing in the image was taken for {entry['phrase']!r}"


def _entries(asked: Asked, result: Segmentation) -> Iterator[dict[str, Any]]:
    for number, span, found in zip(asked.numbers, asked.spans, result.segments, strict=True):
        yield {
            "label": number,
            "phrase": span.text,
            "span": [span.start, span.end],
            "area": float(found.mask.mean()),
            "confidence": found.confidence,
            "mean_uncertainty": float(found.uncertainty.mean()) if len(found.samples) > 1 else None,
        }


def _describe(values: dict[str, Any], model: Model) -> str:
    rows = [
        (str(e["label"]), " ".join(e["phrase"].split()), f"{e['area']:.1%}", f"{e['confidence']:.2f}")
        for e in values["segments"]
    ]
    seconds, s = dict(values["seconds"]), values["settings"]
    total = seconds.pop("total")
    spent = ", ".join(f"{stage} {each:.2f}" for stage, each in seconds.items())
    files = [str(file) for name, file in values["outputs"].items() if name != "maps"]
    if "maps" in values["outputs"]:
        files.append(f"{len(values['outputs']['maps'])} phrases' maps")
    how = f"samples: {s['samples']}, steps: {s['steps']}" if values["method"] == "gs" else "zero-shot"
    return "\n".join(
        [
            table(("label", "phrase", "area", "confidence"), rows),
            f"\n{total:.2f} s: {spent}; {how}, with {model.describe()}",
            f"wrote {', '.join(files)}",
        ]
    )
