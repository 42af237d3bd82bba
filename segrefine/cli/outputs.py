"""Files and folders that commands write: their names and their places, checked before the work is done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from segrefine.errors import OutputError
from segrefine.picture_formats import list_suffixes

STREAM = Path("-")
_PARTS = ("images", "masks", "truth")


class PictureFile(click.ParamType):  # type: ignore[type-arg]  # click takes no type there before 8.4
    """A file to write, whose name ends in one of some suffixes; where allowed, `-` is stdout."""

    name = "path"

    def __init__(self, *suffixes: str, stream: bool = False) -> None:
        self.suffixes, self.stream = suffixes, stream

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; fails as a usage error."""
        path = Path(value)
        if path.suffix.lower() not in self.suffixes and not (self.stream and path == STREAM):
            self.fail(f"expected a name that ends in {' or '.join(self.suffixes)}, got {str(path)!r}", param, ctx)
        return path


cutout_flag = click.option(
    "--cutout", is_flag=True, help="Also write each image's objects on a transparent background, to OUTPUT/cutouts."
)


cutout_option = click.option(
    "--cutout",
    metavar="FILE",
    type=PictureFile(*list_suffixes("opacity")),
    help="Also write the objects on a transparent background: .png, .tif or .webp with the soft mask as opacity.",
)


def check_outputs(outputs: Mapping[str, Path], inputs: Mapping[str, Path]) -> None:
    """Checks that there is a place for every file, and that none is written over an input or another output.

    Args:
        outputs: the files by the options that name them; `-` is left out.
        inputs: the files that are read, by what they are; `-` is left out.

    Raises:
        OutputError: there is no place.
        click.UsageError: a file would be written over; the message names both.
    """
    taken = {os.path.realpath(path): name for name, path in inputs.items() if path != STREAM}
    hint = "choose a folder that exists and is writable"
    for option, file in outputs.items():
        if file == STREAM:
            continue
        if owner := taken.get(place := os.path.realpath(file)):
            raise click.UsageError(f"{option} {file} would overwrite {owner}; choose another file for {option}")
        taken[place] = f"the file of {option}"
        if not file.parent.is_dir():
            raise OutputError(f"cannot write {file}: there is no folder {file.parent}", hint=hint)
        if not os.access(file.parent, os.W_OK):
            raise OutputError(f"cannot write {file}: the folder {file.parent} is read-only", hint=hint)


def check_label_map(file: Path, largest: int) -> None:
    """Checks that a label map's format holds its largest number.

    Args:
        file: the label map.
        largest: its largest number.

    Raises:
        click.UsageError: the format holds numbers up to 255 only.
    """
    able = list_suffixes("16 bits")
    if largest > 255 and file.suffix.lower() not in able:
        raise click.UsageError(
            f"--output {file}: numbers in this label map go up to {largest}, which takes 16 bits: "
            f"expected a name that ends in {', '.join(able)}"
        )


def check_output_folder(output: Path, inputs: Mapping[str, Path | None]) -> None:
    """Checks that a folder to write to is none of those that are read, nor in their images and masks.

    Args:
        output: the folder, which need not exist.
        inputs: data sets, folders of masks or of images, and COCO JSONs, by what they are; None is left out.

    Raises:
        click.UsageError: the results would mingle with what is read; the message names both.
    """
    place = Path(os.path.realpath(output))
    for name, path in inputs.items():
        if not path:
            continue
        is_file, root = path.is_file(), Path(os.path.realpath(path.parent if path.is_file() else path))
        if place == root:
            what = path.name if is_file else name
            raise click.UsageError(f"OUTPUT {output} is where {what} lies, and may overwrite it; choose another folder")
        parts = [root / part for part in _PARTS if (root / part).is_dir()] or [root] * (not is_file)
        for part in parts:
            if place.is_relative_to(os.path.realpath(part)):
                raise click.UsageError(f"OUTPUT {output} is in {part}, which is read; choose another folder")
