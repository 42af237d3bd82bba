"""The part of a data set that a run reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Part:
    """Split and classes of a benchmark; data sets without splits are read whole.

    Attributes:
        split: name of the split, such as "train".
        classes: name of a class list, or its file; None for the data set's own.
    """

    split: str = "train"
    classes: str | None = None

    def describe(self) -> list[str]:
        """Return what differs from the default, for keys that must not change where nothing does."""
        return [] if self == Part() else [self.split, str(self.classes)]
