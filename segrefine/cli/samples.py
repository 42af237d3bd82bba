"""`segrefine samples`, and the one reader of the shipped scenes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segrefine.cli.console import Console, with_console
from segrefine.cli.paths import GivenPath
from segrefine.errors import OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FOLDERS = ("images", "masks", "truth")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A scene with a coarse mask and the true one.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        coarse: float32 (H, W) foreground probability in [0, 1].
        truth: bool (H, W).
        label: what the masks show.
    """

    image: NDArray[np.uint8]
    coarse: NDArray[np.float32]
    truth: NDArray[np.bool_]
    label: str


def load_samples(folder: Path) -> dict[str, Sample]:
    """The scenes by name, of a folder that `segrefine samples` wrote.

    Raises:
        ImageError: a picture is missing or damaged.
        MaskError: a mask does not fit its image.
    """
    from segrefine.runtime.files.image import load_image
    from segrefine.runtime.files.mask import load_mask

    samples = {}
    for name, label in _read_labels(folder).items():
        coarse, truth = (folder / kind / f"{name}.png" for kind in FOLDERS[1:])
        photograph = folder / FOLDERS[0] / f"{name}.jpg"
        pixels = load_image(photograph if photograph.exists() else photograph.with_suffix(".png"))
        size = pixels.shape[0], pixels.shape[1]
        samples[name] = Sample(
            image=pixels, coarse=load_mask(coarse, size), truth=load_mask(truth, size) > 0.5, label=label
        )
    return samples


@click.command(short_help="Write sample images with masks to a new folder.")
@click.argument("folder", metavar="DIR", type=GivenPath())
@click.option("--copies", type=click.IntRange(min=1), default=1, show_default=True, help="Copies of every image.")
@click.option(
    "--kind", type=click.Choice(["photographs", "scenes"]), default="photographs", show_default=True,
    help="Eight photographs, for the model `photo`; or twelve drawn scenes, for `demo`.",
)  # fmt: skip
@with_console
def samples(console: Console, folder: Path, copies: int, kind: str) -> None:
    """Write sample images with masks to a new folder DIR.

    DIR/images, DIR/masks (coarse) and DIR/truth hold the files. DIR/labels.json names the object of each mask.
    DIR/ATTRIBUTION.md names the authors of the photographs, and their terms.
    """
    from segrefine.assets import demo_samples, photo_samples
    from segrefine.storage import output_errors, staging_folder

    folder = folder.absolute()
    with output_errors(folder):
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise OutputError(f"{folder} exists and is not an empty folder", hint="choose a new folder")
    with staging_folder(folder) as staging, output_errors(folder):
        source = photo_samples() if kind == "photographs" else demo_samples()
        labels = dict(_copy_samples(source, staging, copies))
        if (terms := source / "ATTRIBUTION.md").exists():
            shutil.copyfile(terms, staging / terms.name)
        (staging / "labels.json").write_text(json.dumps(labels, indent=2) + "\n", encoding="utf-8")
        staging.rename(folder)
    text = f"{len(labels)} {kind} in {folder}: images, coarse masks, true masks and labels.json"
    console.result({"folder": str(folder), "samples": list(labels)}, text)


def _copy_samples(source: Path, target: Path, copies: int) -> Iterator[tuple[str, str]]:
    """Copies the samples `copies` times, and gives the name and the label of each."""
    for kind in FOLDERS:
        (target / kind).mkdir()
    for copy in range(1, copies + 1):
        for name, label in _read_labels(source).items():
            copy_name = name if copies == 1 else f"{name}-{copy:0{len(str(copies))}d}"
            for kind in FOLDERS:
                (file,) = (source / kind).glob(f"{name}.*")
                shutil.copyfile(file, target / kind / f"{copy_name}{file.suffix}")
            yield copy_name, label


def _read_labels(folder: Path) -> dict[str, str]:
    labels: dict[str, str] = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    return labels
