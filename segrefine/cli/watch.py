"""`segrefine watch`."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from segrefine.cli.console import FAILED, Console, with_console
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
from segrefine.cli.reading import watching_options

if TYPE_CHECKING:
    from segrefine.batch.journal import Entry
    from segrefine.datasets.notation import ReadingOptions


@click.command(short_help="Refine images as they come into a folder.")
@click.argument("source", metavar="DIR", type=GivenPath(exists=True, file_okay=False))
@click.argument("output", metavar="OUTPUT", type=GivenPath(file_okay=False))
@click.option(
    "--interval",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Seconds between two scans of the folder.",
)
@click.option(
    "--settle",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="Seconds for which a file must not change before it is read: it may still be being copied.",
)
@click.option(
    "--stop-after",
    type=click.FloatRange(min=0),
    help="Stop after this many seconds without a new image.  [default: never]",
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Number of processes.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed of the noise.")
@cutout_flag
@max_megapixels_option
@guard_option
@crop_option
@settings_options
@watching_options
@model_options
@with_console
def watch(
    console: Console, /, source: Path, output: Path, workers: int, seed: int, cutout: bool, max_megapixels: float,
    guard: bool, crop: bool, choice: SettingsChoice, reading: ReadingOptions, model: Model, **times: Any,
) -> None:  # fmt: skip
    """Refine images as they come into the folder DIR, and write the masks to the folder OUTPUT.

    DIR/images and DIR/masks hold images and masks, matched by name. --label or DIR/labels.json says what the masks
    show; --classes or DIR/classes.json names the indices of label maps. Files of LabelMe, YOLO or class activation maps
    name their own classes; the first must be there. With --zero-shot, DIR holds only images.

    An image is read once its files have stopped changing, and refined once. A file that cannot be read is tried again
    when it changes. Ctrl-C or SIGTERM ends the watch. Started again, it continues with what is missing, also after a
    crash.
    """
    from segrefine.batch.watch import Listener, Rhythm, watch_folder
    from segrefine.batch.worker import Job

    check_output_folder(output, {"the watched folder": source})
    job = Job(
        source=source.absolute(), images=None, output=output.absolute(), setup=model.setup(choice), seed=seed,
        guard=guard, crop=crop, reading=reading, cutout=cutout,
        max_megapixels=max_megapixels,
    )  # fmt: skip
    if lack := model.describe_lack():
        console.warn(lack)
    rhythm, job = Rhythm(**times), job.share_cores(workers)
    listener = Listener(done=lambda entry: _tell(console, entry), warn=console.warn)
    with _stopped_by_sigterm():
        values = watch_folder(job, workers=workers, rhythm=rhythm, listener=listener)
    values |= {"output": str(output), "model": model.to_dict()}
    console.result(values, _describe(values))
    if values["failed"]:
        click.get_current_context().exit(FAILED)


def _tell(console: Console, entry: Entry) -> None:
    """Print one line on an image, on stderr."""
    if entry.status == "failed":
        again = "; it is tried again when its files change"
        console.warn(f"{entry.name}: {entry.message}{again}")
    else:
        click.echo(f"watch: {entry.name}, {entry.masks} refined, {entry.seconds:.1f} s", err=True)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """A context in which SIGTERM ends the work as Ctrl-C does."""

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _describe(values: Mapping[str, Any]) -> str:
    lines = [
        f"images   {values['done']} refined, {values['failed']} failed, {len(values['waiting'])} wait for a mask",
        f"wrote    {values['output']}, with journal.jsonl",
    ]
    return "\n".join(lines)
