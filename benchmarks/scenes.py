"""Many masks of one image: time of the first mask against that of the next ones, with `Refiner.open`.

python -m benchmarks.scenes

The shipped scenes and photographs. The second mask has another label. Another stroke is the same label with a mask that
is moved. Masks are compared with those that a refiner without memory gives.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import markdown_table, write_result
from benchmarks.timing import ENGINES
from segrefine.assets import demo_bundle, demo_samples, photo_samples
from segrefine.cli.samples import Sample, load_samples
from segrefine.runtime.pipeline import Refiner

BARS = {"second mask": 0.6, "another stroke": 0.35}
SHIFT = 3
"""Pixels by which the mask of another stroke is moved."""


@click.command()
@click.option("--repeats", default=3, show_default=True, help="Runs of each; the fastest counts.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
def main(repeats: int, threads: int) -> None:
    """Measure the masks of each image, one after another."""
    samples = [*load_samples(demo_samples()).values(), *load_samples(photo_samples()).values()]
    values: dict[str, Any] = {}
    for name, (backend, precision) in ENGINES.items():
        with Refiner.from_bundle(demo_bundle(), backend=backend, precision=precision, threads=threads) as refiner:
            refiner(samples[0].image, samples[0].coarse, samples[0].label)
            shares = [measure(refiner, sample, repeats) for sample in samples]
            equal = sum(count_equal(refiner, sample) for sample in samples)
        found = {key: float(np.median([each[key] for each in shares])) for key in BARS}
        values[name] = found | {"equal_masks": equal, "images": len(samples)}
    rows = [
        [name, *(f"{each[key]:.2f}" for key in BARS), f"{each['equal_masks']} of {3 * len(samples)}"]
        for name, each in values.items()
    ]
    header = [
        "engine",
        *(f"{key} ÷ first (bar: ≤ {bar})" for key, bar in BARS.items()),
        "masks equal to those without memory",
    ]
    text = (
        f"The demo model on {len(samples)} images, default settings, {threads} threads: medians over images of each "
        f"image's ratio, the fastest of {repeats} runs."
    )
    markdown = f"# Many masks of one image\n\n{text}\n\n{markdown_table(header, rows)}"
    click.echo(markdown)
    write_result("scenes", values, markdown)


def measure(refiner: Refiner, sample: Sample, repeats: int) -> dict[str, float]:
    """Times of the second mask and of another stroke, in units of that of the first."""
    seconds: dict[str, list[float]] = {"first": [], **{key: [] for key in BARS}}
    for _ in range(repeats):
        began = time.perf_counter()
        with refiner.open(sample.image) as scene:
            scene(sample.coarse, sample.label)
            seconds["first"].append(time.perf_counter() - began)
            seconds["second mask"].append(_time(lambda: scene(_elsewhere(sample), _other(sample))))  # noqa: B023
            seconds["another stroke"].append(_time(lambda: scene(_moved(sample), sample.label)))  # noqa: B023
    least = {key: min(each) for key, each in seconds.items()}
    return {key: least[key] / least["first"] for key in BARS}


def count_equal(refiner: Refiner, sample: Sample) -> int:
    """Count the masks of an open image, of three, that are those of separate calls to the pixel."""
    with refiner.open(sample.image) as scene:
        asked = [(sample.coarse, sample.label), (_elsewhere(sample), _other(sample)), (_moved(sample), sample.label)]
        return sum(
            np.array_equal(scene(mask, label).mask, refiner(sample.image, mask, label).mask) for mask, label in asked
        )


def _time(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _other(sample: Sample) -> str:
    return "car" if sample.label != "car" else "fox"


def _moved(sample: Sample) -> NDArray[np.float32]:
    return np.roll(sample.coarse, SHIFT, 1)


def _elsewhere(sample: Sample) -> NDArray[np.float32]:
    return np.roll(sample.coarse, sample.coarse.shape[1] // 3, 1)


if __name__ == "__main__":
    main()
