"""Many masks of one image: time of the first mask against that of the next ones, with `Refiner.open`.

    python -m benchmarks.scenes

`demo` on the shipped scenes and photographs, `photo` on the photographs. The second mask has another label. Another
stroke is the same label with a mask that is moved. Masks are compared with those that a refiner without memory gives.
"""

from __future__ import annotations

import time
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import markdown_table, write_result
from benchmarks.timing import ENGINES
from segrefine.assets import demo_bundle, demo_samples, photo_bundle, photo_samples
from segrefine.cli.samples import Sample, load_samples
from segrefine.runtime.pipeline import Refiner

BARS = {"second mask": 0.6, "another stroke": 0.35}
SHIFT = 3
"""Pixels by which the mask of another stroke is moved."""
LABELS = {"demo": ("car", "fox"), "photo": ("cat", "dog")}
"""The label of the second mask, and the one where that is the first mask's already."""


@click.command()
@click.option("--repeats", default=3, show_default=True, help="Runs of each; the fastest counts.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
def main(repeats: int, threads: int) -> None:
    """Measure the masks of each image, one after another."""
    photographs = list(load_samples(photo_samples()).values())
    samples = {"demo": [*load_samples(demo_samples()).values(), *photographs], "photo": photographs}
    values: dict[str, Any] = {}
    rows = []
    for model, bundle in (("demo", demo_bundle()), ("photo", photo_bundle())):
        for name, (backend, precision) in ENGINES.items():
            with Refiner.from_bundle(bundle, backend=backend, precision=precision, threads=threads) as refiner:
                scenes = [Strokes(refiner, sample, LABELS[model]) for sample in samples[model]]
                scenes[0].refine_apart()
                shares = [scene.measure(repeats) for scene in scenes]
                equal = sum(scene.count_equal() for scene in scenes)
            found = {key: float(np.median([each[key] for each in shares])) for key in BARS}
            values[f"{model}, {name}"] = found | {"equal_masks": equal, "images": len(scenes)}
            rows.append([model, name, *(f"{found[key]:.2f}" for key in BARS), f"{equal} of {3 * len(scenes)}"])
    header = [
        "model",
        "engine",
        *(f"{key} ÷ first (bar: ≤ {bar})" for key, bar in BARS.items()),
        "masks equal to those without memory",
    ]
    text = (
        f"`demo` on {len(samples['demo'])} images and `photo` on {len(photographs)}, default settings, {threads} "
        f"threads: medians over images of each image's ratio, the fastest of {repeats} runs."
    )
    markdown = f"# Many masks of one image\n\n{text}\n\n{markdown_table(header, rows)}"
    click.echo(markdown)
    write_result("scenes", values, markdown)


class Strokes:
    """Three masks of one image: the sample's, one of another label elsewhere, and the first one moved."""

    def __init__(self, refiner: Refiner, sample: Sample, labels: tuple[str, str]) -> None:
        self._refiner, self._image = refiner, sample.image
        other = labels[sample.label == labels[0]]
        elsewhere, moved = (np.roll(sample.coarse, by, 1) for by in (sample.coarse.shape[1] // 3, SHIFT))
        self._asked = [(sample.coarse, sample.label), (elsewhere, other), (moved, sample.label)]

    def measure(self, repeats: int) -> dict[str, float]:
        """Times of the second mask and of another stroke, in units of that of the first."""
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            with self._refiner.open(self._image) as scene:
                ends = [began]
                for mask, label in self._asked:
                    scene(mask, label)
                    ends.append(time.perf_counter())
            seconds.append(np.diff(ends))
        first, *others = np.min(seconds, 0)
        return {key: float(each / first) for key, each in zip(BARS, others, strict=True)}

    def count_equal(self) -> int:
        """Count the masks of an open image that are those of separate calls to the pixel."""
        with self._refiner.open(self._image) as scene:
            together = [scene(mask, label).mask for mask, label in self._asked]
        return sum(np.array_equal(*pair) for pair in zip(together, self.refine_apart(), strict=True))

    def refine_apart(self) -> list[NDArray[np.bool_]]:
        """The masks of separate calls."""
        return [self._refiner(self._image, mask, label).mask for mask, label in self._asked]


if __name__ == "__main__":
    main()
