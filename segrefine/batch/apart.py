"""Masks that were made each for itself: a label map cannot hold those that overlap, so each is kept as run lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from segrefine.datasets.items import Item, Key
from segrefine.errors import MaskError
from segrefine.runtime.files.output import write_whole
from segrefine.runtime.files.rle import decode_rle, encode_rle
from segrefine.runtime.named_mask import HasMask
from segrefine.storage import output_errors, read_json_object

FOLDER = "apart"


def _file_of(output: Path, name: str) -> Path:
    return output / FOLDER / f"{quote(name, safe=' ', errors='surrogatepass')}.json"


def write_apart(item: Item, results: Mapping[Key, HasMask], output: Path) -> None:
    """Write the masks of an image, each whole.

    Args:
        item: the image.
        results: its masks, by their keys.
        output: folder of the results.

    Raises:
        OutputError: there is no place.
    """
    file = _file_of(output, item.name)
    with output_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({str(key): encode_rle(each.mask) for key, each in results.items()}).encode())


def read_apart(name: str, output: Path) -> dict[str, NDArray[np.bool_]] | None:
    """The masks of an image, bool (H, W), by their keys; None where none were kept apart.

    Raises:
        MaskError: the file is damaged.
    """
    file = _file_of(output, name)
    if not file.is_file():
        return None
    content = read_json_object(file, MaskError, hint="run the benchmark again in another folder")
    return {key: decode_rle(rle) for key, rle in content.items()}
