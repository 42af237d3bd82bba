"""The service with a fault: it keeps 1 MiB for every request. The control of the soak's memory check."""

from __future__ import annotations

from collections.abc import Sequence

from segrefine import Segmenter
from segrefine.cli import main
from segrefine.serve.models import SegmentModel
from segrefine.serve.work import Answer, Work

_KEPT: list[bytearray] = []


class LeakingModel(SegmentModel):
    def run(self, works: Sequence[Work]) -> list[Answer | Exception]:
        _KEPT.extend(bytearray(b"x" * 2**20) for _ in works)
        return super().run(works)


if __name__ == "__main__":
    import segrefine.serve.models as models

    def open_leaking(offer: models.Offer) -> LeakingModel:
        return LeakingModel(Segmenter.from_setup(offer.setup), offer.served)

    models.Offer.open = open_leaking  # type: ignore[method-assign, assignment]  # the fault is put in from outside
    main()
