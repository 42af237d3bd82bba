"""The service with a fault: it keeps 1 MiB for every request. The control of the soak's memory check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segrefine.cli import main
from segrefine.serve.models import SegmentModel
from segrefine.serve.work import Answer, Work

_KEPT: list[bytearray] = []


class LeakingModel(SegmentModel):
    def run(self, works: Sequence[Work]) -> list[Answer | BaseException]:
        _KEPT.extend(bytearray(b"x" * 2**20) for _ in works)
        return super().run(works)


if __name__ == "__main__":
    import segrefine.serve.models as models

    def open_model(pipeline: Any, served: Any) -> LeakingModel:
        return LeakingModel(pipeline, served)

    models.open_model = open_model
    main()
