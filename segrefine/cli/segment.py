"""`segrefine segment`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.cli.console import Console, table, with_console
from segrefine.cli.inputs import read_picture
from segrefine.cli.options import (
    BundleFolder,
    Model,
    SamplerName,
    SettingsChoice,
    model_options,
    settings_options,
)
from segrefine.cli.outputs import PictureFile, check_outputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segrefine.runtime.narrative import Span
    from segrefine.runtime.segmentation import Segment, Segmentation
    from segrefine.settings import GsSettings


_MAP = re.compile(r"\d\d+-.*\.(mask|probability|uncertainty)\.png")
SPREAD_SAMPLES = 4
"""How many samples are drawn where their spread is asked for, and nothing says how many."""


@dataclass(frozen=True, kw_only=True)
class SegmentOutputs:
    """What to write; None leaves it out."""

    labels: Path
    overlay: Path | None
    sheet: Path | None
    maps: Path | None
    uncertainty: bool

    def check(self, image: Path, phrases: Sequence[str]) -> None:
        """Checks the places before the work is done.

        Args:
            image: the picture that is read.
            phrases: what is looked for.

        Raises:
            OutputError: a file has no place.
            click.UsageError: a file would be written over, or an option lacks another.
        """
        if self.uncertainty and not self.maps:
            raise click.UsageError("--uncertainty is written beside the other maps: add --maps DIR")
        named = {"--output": self.labels, "--overlay": self.overlay, "--sheet": self.sheet, "--maps": self.maps}
        named |= {f"--maps, with its {path.name}:": path for path in self._list_maps(phrases) if path.parent.is_dir()}
        check_outputs({name: path for name, path in named.items() if path}, {"the image to segment": image})

    def other_maps(self, phrases: Sequence[str]) -> list[str]:
        """Names of maps in the folder that another run left there."""
        ours = {path.name for path in self._list_maps(phrases)}
        there = self.maps.glob("*.*.png") if self.maps else ()
        return sorted(path.name for path in there if _MAP.fullmatch(path.name) and path.name not in ours)

    def _list_maps(self, phrases: Sequence[str]) -> list[Path]:
        """The files of all phrases' maps."""
        if not self.maps:
            return []
        parts = (self._map_files(self.maps, number, phrase) for number, phrase in enumerate(phrases, 1))
        return [path for files in parts for path in files.values()]

    def _map_files(self, folder: Path, number: int, phrase: str) -> dict[str, Path]:
        """The files of one phrase's maps, by what they show."""
        words = re.sub(r"\W+", "-", phrase.casefold()).strip("-")
        stem = f"{number:02d}-{words[:40]}"
        kinds = ("mask", "probability", *(["uncertainty"] if self.uncertainty else []))
        return {kind: folder / f"{stem}.{kind}.png" for kind in kinds}

    def write(self, image: NDArray[np.uint8], result: Segmentation) -> dict[str, Any]:
        """Writes it, each file as a whole; gives the files by name."""
        from segrefine.runtime.output import save_image, save_label_map
        from segrefine.runtime.pictures import overlay_labels, segment_sheet
        from segrefine.storage import output_errors

        labels = result.label_map()
        written: dict[str, Any] = {"labels": str(self.labels)}
        save_label_map(self.labels, labels)
        if self.overlay:
            written["overlay"] = str(self.overlay)
            save_image(self.overlay, overlay_labels(image, labels))
        if self.sheet:
            written["sheet"] = str(self.sheet)
            rows = [(image, each, f"confidence {each.confidence:.2f}") for each in result.segments]
            save_image(self.sheet, segment_sheet(rows))
        if self.maps:
            with output_errors(self.maps):
                self.maps.mkdir(exist_ok=True)
            numbered = enumerate(result.segments, 1)
            written["maps"] = [self._write_maps(self.maps, number, segment) for number, segment in numbered]
        return written

    def _write_maps(self, folder: Path, number: int, segment: Segment) -> dict[str, str]:
        from segrefine.runtime.output import save_mask, save_probability

        files = self._map_files(folder, number, segment.phrase)
        save_mask(files["mask"], segment.mask)
        save_probability(files["probability"], segment.probability)
        if self.uncertainty:
            save_probability(files["uncertainty"], segment.uncertainty)
        return {name: str(path) for name, path in files.items()}


@click.command(short_help="Segment what phrases name in an image.")
@click.argument("image", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("phrases", metavar='["PHRASE" …]', nargs=-1)
@click.option(
    "--caption", help="Instead of phrases: a sentence; each of its noun phrases, or of its [bracketed parts]."
)
@click.option(
    "-o", "--output", metavar="PNG", type=PictureFile(".png"), default="segments.png", show_default=True,
    help="The label map: a palette picture with phrase 1, 2, …; 0 is none of them.",
)  # fmt: skip
@click.option("--overlay", metavar="PNG", type=PictureFile(".png"), help="Also write the image under the label map.")
@click.option(
    "--sheet", metavar="PNG", type=PictureFile(".png"),
    help="Also write a sheet with mask, probability and uncertainty of every phrase.",
)  # fmt: skip
@click.option(
    "--maps", metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
    help="Also write mask and probability (PNG of 16 bits) of every phrase there.",
)  # fmt: skip
@click.option("--uncertainty", is_flag=True, help="With --maps: also the spread of the samples.")
@click.option(
    "--samples", type=click.IntRange(min=1),
    help=f"Masks drawn for each phrase, and averaged; {SPREAD_SAMPLES} for --uncertainty and --sheet, if not given.",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Steps of the sampler.")
@click.option("--sampler", type=SamplerName(), help="How masks are sampled from noise.  [default: the model's]")
@click.option("--guidance", type=click.FloatRange(min=0), help="Guidance by the phrase; 1 is none.")
@click.option("--image-guidance", type=click.FloatRange(min=0), help="Guidance by the image; 1 is none.")
@settings_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the noise.")
@click.option("--refine", is_flag=True, help="Refine the masks by G4Seg, the generated ones as coarse masks.")
@click.option("--refine-bundle", metavar="PATH", type=BundleFolder(), help="With --refine: its model.  [default: demo]")
@model_options
@with_console
def segment(
    console: Console, image: Path, phrases: tuple[str, ...], caption: str | None, output: Path, overlay: Path | None,
    sheet: Path | None, maps: Path | None, uncertainty: bool, seed: int, refine: bool, refine_bundle: Path | None,
    model: Model, samples: int | None, steps: int | None, sampler: str | None, guidance: float | None,
    image_guidance: float | None, choice: SettingsChoice,
) -> None:  # fmt: skip
    """Segment what each PHRASE names in IMAGE.

    IMAGE is a picture of any size, - is stdin. A phrase names one object or several: "the red car", "all apples".
    """
    caption, spans = _find_spans(phrases, caption)
    if refine_bundle and not refine:
        raise click.UsageError("--refine-bundle says what refines: add --refine")
    if uncertainty and samples == 1:
        raise click.UsageError(f"one sample has no spread: leave --samples out, or take --samples {SPREAD_SAMPLES}")
    outputs = SegmentOutputs(labels=output, overlay=overlay, sheet=sheet, maps=maps, uncertainty=uncertainty)
    outputs.check(image, [span.text for span in spans])
    changed: dict[str, Any] = {"samples": samples, "steps": steps, "sampler": sampler, "guidance_scale": guidance,
               "image_guidance_scale": image_guidance}  # fmt: skip
    pixels = read_picture(console, image)
    started = time.perf_counter()
    with model.open_segmenter(choice) as segmenter:
        spread = (uncertainty or sheet is not None) and not choice.names("samples")
        settings = _change(segmenter.settings, changed, spread=spread)
        loaded = time.perf_counter() - started
        with console.progress("segmenting") as tell:
            result = segmenter(pixels, [span.text for span in spans], settings=settings, seed=seed, progress=tell)
    if refine:
        result = _refine(console, pixels, result, seed, replace(model, bundle=refine_bundle))
    values: dict[str, Any] = {
        "image": str(image),
        "size": [pixels.shape[1], pixels.shape[0]],
        "caption": caption,
        "segments": list(_entries(spans, result)),
        "settings": settings.to_dict(),
        "refined": refine,
        "outputs": outputs.write(pixels, result),
        "seconds": {"load": loaded, **result.seconds, "total": time.perf_counter() - started},
        "peak_gpu_memory": model.peak_memory(),
        "model": model.to_dict(),
    }
    if left := outputs.other_maps([span.text for span in spans]):
        console.warn(f"{maps} also holds maps of another run: {', '.join(left)}")
    for warning in _warnings(values["segments"], model):
        console.warn(warning)
    console.result(values, _describe(values, model))


def _change(settings: GsSettings, changed: dict[str, Any], *, spread: bool) -> GsSettings:
    """The bundle's settings with those that were given; with several samples where their spread is to be seen."""
    wanted = {name: value for name, value in changed.items() if value is not None}
    if spread and settings.samples == 1:
        wanted = {"samples": SPREAD_SAMPLES} | wanted
    return replace(settings, **wanted)


def _find_spans(phrases: Sequence[str], caption: str | None) -> tuple[str | None, Sequence[Span]]:
    """The caption without its brackets, and its phrases; those without a caption have their places in themselves."""
    from segrefine.runtime.narrative import Span, split_caption

    if bool(phrases) == (caption is not None):
        raise click.UsageError('give phrases, such as "the fox" "the red car", or --caption with a sentence')
    if caption is not None:
        return split_caption(caption)
    return None, [Span(text=phrase, start=0, end=len(phrase)) for phrase in phrases]


def _refine(console: Console, image: NDArray[np.uint8], result: Segmentation, seed: int, model: Model) -> Segmentation:
    from segrefine.runtime.chain import refine_segments

    began = time.perf_counter()
    with model.open() as refiner, console.progress("refining") as tell:
        refined = refine_segments(refiner, image, result, seed=seed, progress=tell)
    return replace(refined, seconds={**result.seconds, "refine": time.perf_counter() - began})


def _warnings(entries: Sequence[dict[str, Any]], model: Model) -> Iterator[str]:
    from segrefine.assets import DEMO_LABELS, DEMO_PHRASE_WORDS

    words = {word for entry in entries for word in re.findall(r"\w+", entry["phrase"].casefold())}
    if model.is_demo and (unknown := sorted(words - DEMO_PHRASE_WORDS)):
        known = f"{', '.join(DEMO_LABELS)}, their colours and places"
        what = ", ".join(map(repr, unknown))
        yield f"the demo model does not know {what}; it knows {known}; --bundle chooses another model"
    for entry in entries:
        if not entry["area"]:
            yield f"nothing in the image was taken for {entry['phrase']!r}"


def _entries(spans: Sequence[Span], result: Segmentation) -> Iterator[dict[str, Any]]:
    for number, (span, found) in enumerate(zip(spans, result.segments, strict=True), 1):
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
    return "\n".join(
        [
            table(("label", "phrase", "area", "confidence"), rows),
            f"\n{total:.2f} s: {spent}; samples: {s['samples']}, steps: {s['steps']}, with {model.describe()}",
            f"wrote {', '.join(files)}",
        ]
    )
