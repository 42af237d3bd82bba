"""What readers of annotation files share: files near each other, entries that may lack something, and scenes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from segrefine.errors import MaskError
from segrefine.train.scenes import Mask, Pixels, Region, Scene


def find_nearby(candidates: Sequence[Path], what: str, hint: str) -> Path:
    """The first of several paths that exists.

    Raises:
        MaskError: none does.
    """
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise MaskError(f"cannot find {what} near {candidates[0].parent}", hint=hint)


@contextmanager
def complete_entries(files: str, hint: str) -> Iterator[None]:
    """A context in which entries of JSON or pickle files are read.

    Raises:
        MaskError: an entry lacks a key, or holds something else than it should.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"an entry lacks {error}" if isinstance(error, KeyError) else f"an entry is damaged: {error}"
        raise MaskError(f"{files}: {reason}", hint=hint) from error


def scene_of(image: Pixels, regions: Iterable[Region], ignored: Mask | None = None) -> Scene:
    """A scene without its empty regions.

    Args:
        image: uint8 (H, W, 3) RGB.
        regions: its regions.
        ignored: bool (H, W), pixels that do not count; None where all count.
    """
    return Scene(
        image=image,
        regions=tuple(region for region in regions if region.mask.any()),
        ignored=np.zeros(image.shape[:2], np.bool_) if ignored is None else ignored,
        known=frozenset(),
    )
