"""Reading the picture that a command is given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segrefine.cli.console import Console
from segrefine.cli.outputs import STREAM
from segrefine.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


max_megapixels_option = click.option(
    "--max-megapixels",
    metavar="N",
    type=click.FloatRange(min=0, max=178, min_open=True),
    default=40.0,
    show_default=True,
    help="Largest image that is read, in millions of pixels; up to 178. Memory grows with it.",
)


def read_picture(console: Console, picture: Path, max_megapixels: float) -> NDArray[np.uint8]:
    """Read the picture of a path or, for `-`, of stdin: RGB, uint8 (H, W, 3). Warn if its EXIF orientation turns it.

    Args:
        console: takes the warning.
        picture: the path.
        max_megapixels: largest size that is read.

    Raises:
        ImageError: it cannot be read.
    """
    from segrefine.runtime.files.image import describe_turn, load_image, name_of, read_bytes

    source = sys.stdin.buffer.read() if picture == STREAM else picture
    try:
        pixels = load_image(source, max_megapixels=max_megapixels)
    except ImageError as error:
        raise error.about("stdin" if picture == STREAM else None) from error
    if turn := describe_turn(read_bytes(source)):
        console.warn(
            f"{name_of(source) or 'stdin'} is {turn}, as its EXIF orientation says; masks are of the turned picture"
        )
    return pixels
