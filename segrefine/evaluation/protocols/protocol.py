"""Interface of a protocol: it judges the masks of one image after another, and sums up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segrefine.datasets.notation import Notation, ReadingOptions
from segrefine.errors import SettingsError
from segrefine.evaluation.matching import Matched

Mask = NDArray[np.bool_]
Summary = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measure of a protocol, as a table shows it.

    Attributes:
        key: path of the measure in the summary, such as ("average_recall", "things").
        title: its name in tables.
    """

    key: tuple[str, ...]
    title: str

    def of(self, summary: Mapping[str, Any]) -> float | None:
        """The measure in a summary; None where it is missing or undefined."""
        value: Any = summary
        for part in self.key:
            value = value.get(part) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else None


class OfficialProtocol(ABC):
    """One way to judge predictions. A new one is a class or an object, and a line of `PROTOCOLS`.

    Attributes:
        name: what users call it.
        described: what it judges, in a few words.
        source: the official code that it follows.
        is_comparable: whether its figures may be compared with published tables.
    """

    name: str
    described: str
    source: str
    is_comparable: ClassVar[bool] = True

    @abstractmethod
    def check(self, truth: Notation) -> None:
        """Check that the protocol is for this data.

        Raises:
            SettingsError: it is for other data.
        """

    def complete(self, reading: ReadingOptions) -> ReadingOptions:
        """Reading options with what the protocol knows of its data."""
        return reading

    @abstractmethod
    def judge(self, truth: Matched, predicted: Matched) -> Any:
        """Judge the predictions of one image. The result is what `summarise` takes.

        Args:
            truth: the true masks.
            predicted: the predicted ones, of the same size.

        Raises:
            SegrefineError: the predictions do not fit.
        """

    @abstractmethod
    def summarise(self, judged: Iterable[Any]) -> Summary:
        """Sum up what `judge` returned for all images, as JSON values."""

    @abstractmethod
    def figures(self, summary: Summary) -> list[Figure]:
        """The measures that a table shows, the most important one first."""

    def refuse(self, truth: Notation, expected: str) -> SettingsError:
        """The error for data of another kind."""
        return SettingsError(
            f"--protocol {self.name} is for {expected}, and the true masks are {truth.described_whole}",
            hint="--protocol full judges any masks, and its figures are not comparable with published tables",
        )


def share(part: float, whole: float) -> float | None:
    """A share, or None where there is nothing to share."""
    return float(part / whole) if whole else None
