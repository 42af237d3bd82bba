"""Judging a whole comparison by a protocol, after and before refining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segrefine.evaluation.matching import Matched
from segrefine.evaluation.protocols.protocol import Figure, OfficialProtocol, Summary
from segrefine.evaluation.protocols.table import FULL


class Judging:
    """Collects what a protocol makes of each image.

    Args:
        protocol: what judges.
    """

    def __init__(self, protocol: OfficialProtocol) -> None:
        self.protocol = protocol
        self._judged: list[list[Any]] = []

    def add(self, name: str, sides: Sequence[Matched]) -> None:
        """Judge one image.

        Args:
            name: the image's.
            sides: its true, predicted and, where they are known, coarse masks.

        Raises:
            SegrefineError: the masks do not fit the protocol.
        """
        truth, *others = sides
        self._judged.append([self.protocol.judge(truth, other) for other in others])

    def summarise(self) -> dict[str, Any]:
        """The measures as JSON values; under "before" those of the coarse masks, where they are known."""
        after, *before = (self.protocol.summarise(column) for column in zip(*self._judged, strict=True))
        told = {"name": self.protocol.name, "source": self.protocol.source, "comparable": True}
        return told | {"after": after} | ({"before": before[0]} if before else {})


UNCOMPARABLE = {"name": FULL, "source": None, "comparable": False}
"""What results say where no protocol was asked for."""


def list_figures(protocol: OfficialProtocol, values: Summary) -> list[tuple[Figure, float | None, float | None]]:
    """Each measure with its value after and before, for tables. `values` are those of `Judging.summarise`."""
    before = values.get("before", {})
    return [(each, each.of(values["after"]), each.of(before)) for each in protocol.figures(values["after"])]
