"""Objects under one per cent of the image: refined in a crop around them, beside refined in the whole image.

    python -m benchmarks.small_objects        the test scenes; writes benchmarks/results/small_objects.*

A test scene of `benchmarks.quality` is pasted into a held-out photograph of at least 320 pixels a side.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from benchmarks.evaluate import CorruptedCase
from benchmarks.quality import TEST_SEED, cases_of
from benchmarks.report import estimate, markdown_table, paired_difference, write_result
from segrefine.assets import demo_bundle
from segrefine.runtime.crop import SMALL
from segrefine.runtime.imaging.metrics import iou
from segrefine.runtime.pipeline import Refiner
from training.demo.scenes import compose_scene
from training.demo.sources import Sources, load_sources


@click.command()
@click.option("--scenes", default=40, show_default=True, help="Scenes; each gives up to four masks.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
def main(scenes: int, threads: int, cache: Path) -> None:
    """Measure what the crop brings."""
    sources = load_sources(cache, held_out=True)
    cases = [case for number in range(TEST_SEED, TEST_SEED + scenes) for case in _paste(number, sources)]
    before, whole, crop = [], [], []
    with Refiner.from_bundle(demo_bundle(), threads=threads) as refiner:
        for case in tqdm(cases):
            before.append(iou(case.coarse > 0.5, case.truth))
            given = case.image, case.coarse, case.label
            whole.append(iou(refiner(*given, crop=False, guard=False).mask, case.truth))
            crop.append(iou(refiner(*given, guard=False).mask, case.truth))
    groups = [case.scene for case in cases]
    rows = [
        [name, estimate(values, groups).mean, paired_difference(values, before, groups)]
        for name, values in (("coarse", before), ("in the whole image", whole), ("in a crop", crop))
    ]
    gain = paired_difference(crop, whole, groups)
    markdown = "\n\n".join(
        [
            "# Small objects",
            f"{len(cases)} corrupted masks of objects under {SMALL:.0%} of the image. IoU with the true mask.",
            markdown_table(["refined", "IoU", "minus coarse"], rows),
            f"With the crop against without (bar: > 0): {gain}.",
        ]
    )
    click.echo(markdown)
    write_result("small_objects", {"masks": len(cases), "rows": rows, "crop_minus_whole": gain}, markdown)


def _paste(number: int, sources: Sources) -> list[CorruptedCase]:
    """The cases of a scene, in a photograph, whose object and mask are small there."""
    rng = np.random.default_rng([number, 1])
    scene = compose_scene(np.random.default_rng(number), sources)
    photo = sources.backgrounds[rng.integers(len(sources.backgrounds))]
    side = scene.image.shape[0]
    y, x = (int(rng.integers(length - side)) for length in photo.shape[:2])
    place = slice(y, y + side), slice(x, x + side)

    def pasted(values: np.ndarray, onto: np.ndarray) -> np.ndarray:
        result = onto.copy()
        result[place] = values
        return result

    empty = np.zeros(photo.shape[:2], np.float32)
    cases = [
        replace(
            case,
            image=pasted(case.image, photo),
            instances=pasted(case.instances, empty.astype(np.uint8)),
            coarse=pasted(case.coarse, empty),
        )
        for case in cases_of(scene, number)
    ]
    return [case for case in cases if case.truth.mean() < SMALL and (case.coarse > 0.5).mean() < SMALL]


if __name__ == "__main__":
    main()
