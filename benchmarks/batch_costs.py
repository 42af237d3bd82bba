"""Costs of a batch besides refining: reading, writing, listing, logging, distributing.

python -m benchmarks.batch_costs        writes benchmarks/results/batch_costs.*
"""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image

from benchmarks.batch import write_scenes
from benchmarks.report import markdown_table, write_result
from segrefine.assets import demo_bundle
from segrefine.batch.cluster import Share, connected
from segrefine.batch.journal import Entry, Journal
from segrefine.batch.run import RefineAll, run_batch
from segrefine.batch.worker import Job, read_item
from segrefine.datasets.opening import open_data_set
from segrefine.engines import EngineOptions
from segrefine.runtime.engine_set import PipelineSetup
from segrefine.runtime.pipeline import Refiner

PHOTO = (640, 480)
NOISE = 12.0
"""Standard deviation of the noise that gives an enlarged scene about the bytes that photographs have as JPEG."""


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """Speed at which items that need no refining pass through a batch.

    Attributes:
        by: what hands them out.
        rate: items a second.
        driver: CPU seconds of the process that hands out and notes, for each item.
    """

    by: str
    rate: float
    driver: float


@click.command()
@click.option("--items", default=3000, show_default=True, help="Items to hand out, to list, to note.")
@click.option("--photos", default=40, show_default=True, help="Pictures of 640 × 480 to read, refine and write.")
@click.option("--ray/--no-ray", "with_ray", default=True, show_default=True, help="Hand out on a Ray cluster as well.")
def main(items: int, photos: int, with_ray: bool) -> None:
    """Measure what a batch costs besides refining."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        figures = _photos(folder, photos) | _journal(folder, items)
        _write_empty(folder / "empty", items)
        dispatch = [_dispatch(folder, f"{workers} processes", workers, None) for workers in (1, 2)]
        figures |= _listing(folder / "empty", folder / "by 1 processes")
        if with_ray:
            with connected("local") as cluster:
                dispatch.append(_dispatch(folder, "Ray, 2 actors", 2, cluster.refine_all(Share())))
    markdown = "\n\n".join(
        [
            "# What a batch costs besides refining",
            f"Medians of {photos} scenes of a mask each, enlarged to {PHOTO[0]} × {PHOTO[1]} with noise, as JPEG; one "
            f"thread. A data set of {items} images is listed.",
            markdown_table(["figure", "measured"], [[what, f"{value:.3g}"] for what, value in figures.items()]),
            f"{items} tiny label maps without any class: opened, read, written and noted, but not refined, on the two "
            "cores that all processes share. The CPU time of the process that hands them out says how many it could "
            "hand out at most.",
            markdown_table(
                ["handed out by", "items/s", "µs of the driver for an item", "items/s at most"],
                [[d.by, f"{d.rate:.0f}", f"{1e6 * d.driver:.0f}", f"{1 / d.driver:.0f}"] for d in dispatch],
            ),
        ]
    )
    click.echo(markdown)
    write_result("batch_costs", {"figures": figures, "dispatch": dispatch}, markdown)


def _photos(folder: Path, count: int) -> dict[str, float]:
    """Bytes and milliseconds of reading, refining and writing pictures of a usual size."""
    source, output = folder / "photos", folder / "refined"
    write_scenes(source, count)
    _enlarge(source)
    output.mkdir()
    setup = PipelineSetup(bundle=demo_bundle(), engines=EngineOptions(threads=1))
    job = Job(source=source, images=None, output=output, setup=setup)
    dataset, seconds, bytes_read = job.open_dataset(), [], []
    with Refiner.from_setup(setup) as refiner:
        for item in dataset.items:
            moments = [time.perf_counter()]
            image, reading = read_item(job, dataset, item)
            [mask] = reading.masks
            moments.append(time.perf_counter())
            results = refiner(image, [(mask.label, mask.mask)])
            moments.append(time.perf_counter())
            dataset.write(item, {mask.key: results[0]}, (image.shape[0], image.shape[1]), output)
            moments.append(time.perf_counter())
            seconds.append(np.diff(moments))
            files = source / "images" / item.image, source / "masks" / item.masks[0]
            bytes_read.append(sum(file.stat().st_size for file in files))
    read, refine, write = 1000 * np.median(seconds, 0)
    written = [file.stat().st_size for file in (output / "masks").iterdir()]
    return {
        "kB read for an image, with its mask": statistics.median(bytes_read) / 1000,
        "kB written for an image": statistics.median(written) / 1000,
        "ms to read an image and its mask": read,
        "ms to refine it": refine,
        "ms to write its mask": write,
    }


def _enlarge(source: Path) -> None:
    """Makes photographs' sizes of the scenes' images and masks, the images as JPEG."""
    rng = np.random.default_rng(0)
    for file in sorted((source / "images").iterdir()):
        picture = Image.open(file).convert("RGB").resize(PHOTO, Image.Resampling.BICUBIC)
        noisy = np.asarray(picture) + rng.normal(0, NOISE, (*PHOTO[::-1], 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file.with_suffix(".jpg"), quality=90)
        file.unlink()
        mask = source / "masks" / file.name
        Image.open(mask).resize(PHOTO, Image.Resampling.NEAREST).save(mask)


def _journal(folder: Path, count: int) -> dict[str, float]:
    """Lines that the journal takes in a second, each appended to the file for itself."""
    output = folder / "journal"
    output.mkdir()
    journal, began = Journal(output), time.perf_counter()
    for number in range(count):
        journal.add(Entry(name=f"{number:06d}", status="done", masks=1, seconds=0.5))
    return {"lines that the journal takes in a second": count / (time.perf_counter() - began)}


def _write_empty(folder: Path, count: int) -> None:
    """Label maps that hold no class, with their images, both tiny: a batch has nothing to refine in them."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    (folder / "classes.json").write_text(json.dumps(["background", "fox"]))
    for number in range(count):
        Image.new("RGB", (8, 8)).save(folder / "images" / f"{number:06d}.png")
        Image.new("L", (8, 8)).save(folder / "masks" / f"{number:06d}.png")


def _dispatch(folder: Path, by: str, workers: int, refine_all: RefineAll | None) -> Dispatch:
    marks: list[tuple[float, float]] = []

    def tell(entry: Entry, number: int, total: int) -> None:
        if entry.status == "failed":
            raise click.ClickException(f"{entry.name}: {entry.message}")
        if number in (1, total):
            used = resource.getrusage(resource.RUSAGE_SELF)
            marks.append((time.perf_counter(), used.ru_utime + used.ru_stime))

    setup = PipelineSetup(bundle=demo_bundle(), engines=EngineOptions(threads=1))
    job = Job(source=folder / "empty", images=None, output=folder / f"by {by}", setup=setup)
    values = run_batch(job, workers=workers, tell=tell, refine_all=refine_all)
    (began, before), (ended, after) = marks
    passed = values["done"] - 1
    return Dispatch(by=by, rate=passed / (ended - began), driver=(after - before) / passed)


def _listing(source: Path, output: Path) -> dict[str, float]:
    """Milliseconds to find out what there is to do: to list a thousand images, and to see that they are done."""
    began = time.perf_counter()
    dataset = open_data_set(source)
    items = dataset.items  # listed now, and not before
    listed = time.perf_counter()
    if not all(dataset.is_done(item, output) for item in items):
        raise click.ClickException("some results of the batch are missing")
    ended, thousands = time.perf_counter(), len(items) / 1000
    return {
        "ms to list 1,000 images": 1000 * (listed - began) / thousands,
        "ms to look for 1,000 results": 1000 * (ended - listed) / thousands,
    }


if __name__ == "__main__":
    main()
