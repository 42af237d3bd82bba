"""Parts that readers of annotation files share: files near each other, and entries with missing fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from segrefine.errors import MaskError

HashableT = TypeVar("HashableT", bound=Hashable)


def find_nearby(candidates: Sequence[Path], what: str, hint: str) -> Path:
    """The first of several paths that exists.

    Raises:
        MaskError: none does.
    """
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise MaskError(f"cannot find {what} near {candidates[0].parent}", hint=hint)


def find_twice(ids: Iterable[HashableT]) -> list[HashableT]:
    """The ids that come more than once."""
    return [number for number, count in Counter(ids).items() if count > 1]


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
        raise MaskError(reason, subject=files, hint=hint) from error
