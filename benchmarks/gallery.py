"""Draws the pictures of `docs/gallery.md`: photographs and drawn scenes, with and without the guard.

python -m benchmarks.gallery
"""

from __future__ import annotations

from pathlib import Path

from segrefine import Refiner
from segrefine.assets import demo_bundle, demo_samples, photo_bundle, photo_samples
from segrefine.cli.samples import Sample, load_samples
from segrefine.runtime.drawing.pictures import BETTER, WORSE, Tile, contact_sheet, magnify, overlaid, trace_sheet
from segrefine.runtime.files.output import save_image
from segrefine.runtime.imaging.metrics import iou

FOLDER = Path(__file__).parents[1] / "docs" / "assets"
TRACED = "02-car-erode"


def draw_row(sample: Sample, refine: Refiner) -> list[Tile]:
    """An image, its coarse mask, what refining makes of it alone, and what the guard leaves of that."""
    large, coarse = magnify(sample.image), sample.coarse > 0.5
    before = iou(coarse, sample.truth)
    tiles = [
        Tile(picture=large, caption=sample.label),
        Tile(picture=overlaid(large, coarse), caption=f"coarse: IoU {before:.3f}"),
    ]
    for guard, name in ((False, "no guard"), (True, "guard")):
        mask = refine(sample.image, sample.coarse, sample.label, guard=guard).mask
        after = iou(mask, sample.truth)
        gain = 100 * (after - before)
        note = f"{gain:+.1f} points"
        colour = BETTER if gain >= 0 else WORSE
        tiles.append(Tile(picture=overlaid(large, mask), caption=f"{name}: {after:.3f}", note=note, colour=colour))
    return tiles


def main() -> None:
    """Write `photographs.png`, `scenes.png` and `trace.png`."""
    for name, folder, bundle in (
        ("photographs", photo_samples(), photo_bundle()), ("scenes", demo_samples(), demo_bundle())
    ):  # fmt: skip
        with Refiner.from_bundle(bundle) as refine:
            rows = [draw_row(each, refine) for each in load_samples(folder).values()]
        save_image(FOLDER / f"{name}.png", contact_sheet(rows))
    with Refiner.from_bundle(demo_bundle()) as refine:
        traced = load_samples(demo_samples())[TRACED]
        result = refine(traced.image, traced.coarse, traced.label)
        save_image(FOLDER / "trace.png", trace_sheet(traced.image, result, refine.decode))


if __name__ == "__main__":
    main()
