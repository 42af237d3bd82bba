"""Writing results: whole files or none."""

from __future__ import annotations

import io
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.errors import OutputError
from segrefine.storage import output_errors


def save_mask(file: str | Path, mask: NDArray[np.bool_]) -> None:
    """Writes a binary mask, bool (H, W), as a PNG of 0 and 255.

    Raises:
        OutputError: see `save_image`.
    """
    _save_png(Path(file), mask.astype(np.uint8) * 255)


def save_probability(file: str | Path, probability: NDArray[np.floating[Any]]) -> None:
    """Writes a probability, float (H, W), as float32 where the name ends in `.npy`, else as a PNG of 16 bits.

    Values are clipped to [0, 1], past which rounding may have led them.

    Raises:
        OutputError: see `save_image`.
    """
    probability = probability.clip(0, 1)
    if Path(file).suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, probability.astype(np.float32))
        _write(Path(file), buffer.getvalue())
    else:
        _save_png(Path(file), np.round(probability * 65535).astype(np.uint16))


def save_image(file: str | Path, image: NDArray[np.uint8]) -> None:
    """Writes an RGB picture, uint8 (H, W, 3), as a PNG.

    Raises:
        OutputError: the name does not end in `.png`, or the folder does not exist or cannot be written to.
    """
    _save_png(Path(file), image)


def _save_png(file: Path, pixels: NDArray[Any]) -> None:
    if file.suffix.lower() != ".png":
        raise OutputError(f"expected a name that ends in .png to write to, got {str(file)!r}", hint="such as mask.png")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    _write(file, buffer.getvalue())


def _write(file: Path, content: bytes) -> None:
    """Writes under a temporary name and renames, so that `file` is never half there."""
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")
    with output_errors(file), partial.open("xb") as stream:
        try:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
