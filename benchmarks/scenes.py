"""Many masks of one image: time of the first mask against that of the next ones, with `Refiner.open`.

    python -m benchmarks.scenes
    python -m benchmarks.scenes --full-size        also a model of Stable Diffusion 1.5's size, in int8

`benchmarks.peers --prepare` makes the model of full size. Its weights are random, so every pass is computed.

`demo` on the shipped scenes and photographs, `photo` on the photographs. The second mask has another label. Another
stroke is the same label with a mask that is moved. Masks are compared with those that a refiner without memory gives.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.full_size import FOLDER
from benchmarks.peers import CONVINCED
from benchmarks.report import markdown_table, write_result
from benchmarks.timing import ENGINES
from segrefine.assets import demo_bundle, demo_samples, photo_bundle, photo_samples
from segrefine.cli.samples import Sample, load_samples
from segrefine.runtime.pipeline import Refiner

BARS = {"second mask": 0.6, "another stroke": 0.35}
SHIFT = 3
"""Pixels by which the mask of another stroke is moved."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model, and what is measured of it.

    Attributes:
        name: for the table.
        bundle: its folder.
        samples: images with masks.
        labels: of the second mask, and the one where that is the first mask's already.
        settings: changes to the bundle's settings.
        repeats: how many runs, where not as many as asked for.
        engines: names in `ENGINES`.
    """

    name: str
    bundle: Path
    samples: Sequence[Sample]
    labels: tuple[str, str]
    settings: Mapping[str, Any] | None = None
    repeats: int | None = None
    engines: Sequence[str] = tuple(ENGINES)


@click.command()
@click.option("--repeats", default=3, show_default=True, help="Runs of each; the fastest counts.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option("--full-size", is_flag=True, help="Also a model of full size.")
def main(repeats: int, threads: int, full_size: bool) -> None:
    """Measure the masks of each image, one after another."""
    photographs = list(load_samples(photo_samples()).values())
    samples = [*load_samples(demo_samples()).values(), *photographs]
    models = [Model(name="demo", bundle=demo_bundle(), samples=samples, labels=("car", "fox")),
              Model(name="photo", bundle=photo_bundle(), samples=photographs, labels=("cat", "dog"))]  # fmt: skip
    if full_size:
        models.append(Model(name="SD 1.5 in size, int8", bundle=FOLDER / "sd15-int8", samples=photographs[:1],
                            labels=("cat", "dog"), settings=CONVINCED, repeats=1,
                            engines=("OpenVINO bf16",)))  # fmt: skip
    values: dict[str, Any] = {}
    rows = []
    for model in models:
        for name in model.engines:
            backend, precision = ENGINES[name]
            with Refiner.from_bundle(
                model.bundle, backend=backend, precision=precision, threads=threads, settings=model.settings
            ) as refiner:
                scenes = [Strokes(refiner, sample, model.labels) for sample in model.samples]
                scenes[0].refine_apart()
                shares = [scene.measure(model.repeats or repeats) for scene in scenes]
                equal = sum(scene.count_equal() for scene in scenes)
            found = {key: float(np.median([each[key] for each in shares])) for key in BARS}
            values[f"{model.name}, {name}"] = found | {"equal_masks": equal, "images": len(scenes)}
            shown = f"{equal} of {3 * len(scenes)}"
            rows.append([model.name, name, len(scenes), *(f"{found[key]:.2f}" for key in BARS), shown])
    header = [
        "model",
        "engine",
        "images",
        *(f"{key} ÷ first (bar: ≤ {bar})" for key, bar in BARS.items()),
        "masks equal to those without memory",
    ]
    text = (
        f"Default settings, {threads} threads: medians over images of each image's ratio, the fastest of "
        f"{repeats} runs; of the model of full size, one run."
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
