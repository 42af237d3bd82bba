"""`segrefine batch`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segrefine.cli.console import FAILED, Console, describe_guard, with_console
from segrefine.cli.inputs import max_megapixels_option
from segrefine.cli.options import (
    Model,
    SettingsChoice,
    crop_option,
    guard_option,
    model_options,
    settings_options,
)
from segrefine.cli.outputs import check_output_folder, cutout_flag
from segrefine.cli.paths import GivenPath
from segrefine.cli.reading import batch_reading_options
from segrefine.errors import ServiceError

if TYPE_CHECKING:
    from segrefine.batch.cluster import Share
    from segrefine.batch.journal import Entry
    from segrefine.batch.worker import Job
    from segrefine.datasets.notation import ReadingOptions

_SHOWN, _SHOWN_AT_MOST, _EVERY = 5, 50, 10.0
_UNREFINED = {
    "nothing_to_refine": "images of which all masks are empty or of the whole image, and stayed as they were",
    "masks_without_image": "masks that no image has the name of, not refined",
    "linked_folders": "folders of images that are links, not entered",
    "unusable_masks": "annotations without a usable mask, which stayed as they were",
    "turned_images": "images that are turned as their EXIF orientation says; masks are of the turned pictures",
}
"""What the manifest lists beside failures, and what the warning calls it."""


@click.command(short_help="Refine all masks of a data set.")
@click.argument("source", metavar="DIR|JSON", type=GivenPath(exists=True))
@click.argument("output", metavar="OUTPUT", type=GivenPath(file_okay=False))
@click.option(
    "--images", metavar="DIR", type=GivenPath(exists=True, file_okay=False),
    help="Folder of a COCO JSON's images.  [default: images beside it, or its own folder]",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(min=1), help="Worker processes.  [default: as many as memory and cores allow]"
)
@click.option("--resume", is_flag=True, help="Continue a run with the same options. Skip what is done.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed of the noise.")
@guard_option
@crop_option
@settings_options
@batch_reading_options
@cutout_flag
@max_megapixels_option
@click.option(
    "--ray", "address", metavar="[ADDRESS]", is_flag=False, flag_value="auto",
    help="Refine on the Ray cluster at ADDRESS; local starts one here.  [default: RAY_ADDRESS, or one that runs here]",
)  # fmt: skip
@click.option(
    "--gpus",
    type=click.FloatRange(min=0),
    help="GPUs of each worker on the cluster, such as 0.5.  [default: 1 if --device is a GPU, else 0]",
)
@model_options
@with_console
def batch(
    console: Console, source: Path, output: Path, images: Path | None, workers: int | None, resume: bool, seed: int,
    guard: bool, crop: bool, choice: SettingsChoice, reading: ReadingOptions, cutout: bool, max_megapixels: float,
    address: str | None, gpus: float | None, model: Model,
) -> None:  # fmt: skip
    """Refine all masks of a data set, and write them to the folder OUTPUT in the same format.

    DIR holds images/ and masks/ with the same names. labels.json gives the object of each mask, or
    classes.json the class of each index of label maps. masks/CLASS/ for each class works too, and so does
    masks/NAME.npy with class activation maps. JSON is COCO's; its masks are written as run lengths. All masks of one
    image are refined together.

    With --zero-shot, DIR or DIR/images holds only images. OUTPUT/masks gets a label map for each image.

    An annotation without a usable mask is copied unchanged and counted. With --boxes it is refined from its box.

    If an image fails, the others are still refined, and the exit code is 1. OUTPUT/manifest.json lists the images that
    failed, with the reasons. OUTPUT/guard.csv lists the guard's confidence in every mask.
    """
    from segrefine.batch.worker import Job
    from segrefine.engines import usable_cores

    _check(source, output, images, address, gpus)
    job = Job(
        source=source.absolute(), images=images and images.absolute(), output=output.absolute(),
        setup=model.setup(choice), seed=seed, guard=guard, crop=crop, reading=reading, cutout=cutout,
        max_megapixels=max_megapixels,
    )  # fmt: skip
    if lack := model.describe_lack():
        console.warn(lack)
    with console.resumable():
        if address:
            values = _run_on_cluster(console, job, address, workers, resume, share_of(model, gpus))
        else:
            values = _run_here(console, job, workers or usable_cores(), resume)
    values |= {"output": str(output), "model": model.to_dict()}
    _warn_of_failures(console, values)
    for key, what in _UNREFINED.items():
        if names := values[key]:
            console.warn(f"{what}: {len(names)}, such as {', '.join(names[:_SHOWN])}")
    for reason, files in values["not_taken"].items():
        console.warn(f"files below images/ that were not taken: {len(files)}, {reason}, such as {files[0]}")
    console.result(values, _describe(values))
    if values["unwritten"]:
        hint = f"free some space, then continue with --resume; the {values['done']} finished images stay"
        console.fail("; ".join(values["unwritten"]), hint)
    if values["failed"] or values["unwritten"]:
        click.get_current_context().exit(FAILED)


def _warn_of_failures(console: Console, values: Mapping[str, Any]) -> None:
    """Tells of the first failures; of more where no manifest lists them."""
    failures, is_listed = values["failures"], not values["unwritten"]
    shown = failures[: _SHOWN if is_listed else _SHOWN_AT_MOST]
    for failure in shown:
        console.warn(f"{failure['name']}: {failure['message']}")
    if more := len(failures) - len(shown):
        where = f"are listed in {Path(values['output']) / 'manifest.json'}" if is_listed else "failed"
        console.warn(f"{more} more {where}")


def _check(source: Path, output: Path, images: Path | None, address: str | None, gpus: float | None) -> None:
    """Refuses what does not go together, as a usage error."""
    if images and not source.is_file():
        raise click.UsageError("--images is for a COCO JSON; a folder has its own images/")
    check_output_folder(output, {"the data set": source, "the folder of images": images})
    if gpus is not None and not address:
        raise click.UsageError("--gpus is for a cluster, with --ray; here --device chooses the GPU")
    if gpus and gpus > 1 and gpus != int(gpus):
        raise click.UsageError(f"--gpus: expected a fraction up to 1 or a whole number, got {gpus}")


def _run_here(console: Console, job: Job, workers: int, resume: bool) -> dict[str, Any]:
    from segrefine.batch.run import run_batch

    with _Progress(console) as progress:
        return run_batch(job.share_cores(workers), workers=workers, resume=resume, tell=progress.tell)


def share_of(model: Model, gpus: float | None) -> Share:
    """Return each worker's share of its machine: a core for each thread, and a GPU where it needs one."""
    from segrefine.batch.cluster import Share
    from segrefine.engines import needs_gpu

    needed = float(needs_gpu(model.engines.backend, model.engines.device))
    return Share(cpus=model.engines.threads or 1, gpus=needed if gpus is None else gpus)


def _run_on_cluster(
    console: Console, job: Job, address: str, workers: int | None, resume: bool, share: Share
) -> dict[str, Any]:
    from segrefine.batch.cluster import connected
    from segrefine.batch.run import run_batch

    with connected(address) as cluster, _Progress(console) as progress:
        workers = count_workers(console, cluster.room(share), workers, share)
        job = job.with_threads(int(share.cpus))
        refine_all = cluster.refine_all(share)
        return run_batch(job, workers=workers, resume=resume, tell=progress.tell, refine_all=refine_all)


def count_workers(console: Console, room: int, workers: int | None, share: Share) -> int:
    """Count the workers of a cluster that has room for so many.

    Raises:
        ServiceError: it has room for none, and nobody asked to wait.
    """
    if not room and not workers:
        message = f"no machine of the cluster has {share.cpus:g} cores and {share.gpus:g} GPUs for a worker"
        raise ServiceError(message, hint="take less with --threads and --gpus, or --workers to wait for machines")
    if workers and workers > room:
        console.warn(f"the cluster has room for {room} of {workers} workers; the others wait for it to grow")
    return workers or room


class _Progress:
    """Rate and time left: a bar on a terminal, elsewhere a line on stderr every ten seconds."""

    def __init__(self, console: Console) -> None:
        from tqdm import tqdm

        self._console, self._last, self._failed = console, time.monotonic(), 0
        self._bar = tqdm(unit="image", file=sys.stderr, disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._began, self._first = time.monotonic(), 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def tell(self, entry: Entry, number: int, total: int) -> None:
        """One more item is finished, the `number`-th of `total`."""
        self._failed += entry.status == "failed"
        if not self._first:
            self._first, self._bar.total, self._bar.initial = number, total, number - 1
        self._bar.n = number
        self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.refresh()
        now = time.monotonic()
        if self._bar.disable and (now - self._last > _EVERY or number == total):
            rate = (number - self._first + 1) / max(now - self._began, 1e-6)
            left = (total - number) / rate
            click.echo(
                f"batch: {number}/{total}, {rate:.2f} images/s, {left:.0f} s left, {self._failed} failed", err=True
            )
            self._last = now


def _describe(values: Mapping[str, Any]) -> str:
    fresh = values["items"] - values["resumed"]
    left = f", {values['masks_left']} left as they were: empty, or of the whole image" if values["masks_left"] else ""
    left += f", {len(values['unusable_masks'])} without a usable mask" if values["unusable_masks"] else ""
    workers = f"{values['workers']} worker{'s' * (values['workers'] > 1)}"
    lines = {
        "images": f"{values['done']} of {values['items']} refined, {values['failed']} failed",
        "masks": f"{values['masks_refined']} refined{left}",
        "time": f"{values['seconds']:.1f} s for {fresh} images, {workers}",
        "wrote": f"{values['output']}, with manifest.json{' and guard.csv' * values['options']['guard']}",
    }
    if values["unwritten"]:
        lines["wrote"] = f"{values['output']}, but not all of it"
    if guard := describe_guard(values):
        lines["guard"] = guard
    if values["resumed"]:
        lines["resumed"] = f"{values['resumed']} were there already"
    return "\n".join(f"{name:9}{text}" for name, text in lines.items())
