"""Finding phrases with a text-to-image model that the service refines with already."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from segrefine.runtime.batching import Company
from segrefine.runtime.chain import refine_segments
from segrefine.runtime.zero_shot import ATTENTION, ZeroShotSegmenter
from segrefine.serve.answers import segment_answer
from segrefine.serve.models import Offer, PhraseModel, RefineModel, ServedModel, attempt, load_picture
from segrefine.serve.parameters import SegmentParameters
from segrefine.serve.work import Answer, Work
from segrefine.settings import ZeroShotSettings


class ZeroShotModel(PhraseModel[ZeroShotSegmenter]):
    """Zero-shot segmentation, refined by G4Seg. It shares the engines of a model that refines.

    Args:
        refining: the model that refines; it must stay open.
        offer: how that model was opened.
    """

    def __init__(self, refining: RefineModel, offer: Offer) -> None:
        beside = ZeroShotSegmenter.beside(refining.pipeline, offer.setup.engines)
        self._beside, self._refine = beside, refining.pipeline
        super().__init__(beside, replace(refining.served, name=f"{refining.served.name}-words"))

    def company(self, work: Work) -> Company | None:
        """None: the phrases of one request compete, and those of others must not."""
        return None

    def warm_up(self) -> None:
        """Segment a grey image."""
        side = self.pipeline.resolution
        self.pipeline(np.full((side, side, 3), 128, np.uint8), ["the fox"])

    def close(self) -> None:
        """Close what is not shared."""
        self._beside.close()

    def _compute(self, works: Sequence[Work]) -> Mapping[Work, Answer | Exception]:
        return {work: attempt(self._segment, work) for work in works}

    def _segment(self, work: Work) -> Answer:
        began, asked = time.perf_counter(), cast(SegmentParameters, work.parameters)
        image = load_picture(work.pictures)
        read = time.perf_counter() - began
        settings = cast(ZeroShotSettings, work.settings).for_refining()
        found = self.pipeline(image, asked.named(), settings=settings, seed=asked.seed, progress=work.tell)
        began = time.perf_counter()
        refined = refine_segments(self._refine, image, found, seed=asked.seed)
        seconds = {"read": read, **found.seconds, "refine": time.perf_counter() - began}
        answer = self.complete(segment_answer(image, replace(refined, seconds=seconds), work), work, image)
        return replace(answer, seconds={**seconds, **answer.seconds})


def open_models(offers: Sequence[Offer]) -> list[ServedModel]:  # type: ignore[type-arg]
    """The models of a service; the caller closes them.

    Where none finds phrases by label diffusion, the first that refines does it zero-shot as well, if it can.

    Raises:
        SegrefineError: see `EngineSet.from_setup`.
    """
    models: list[ServedModel] = []  # type: ignore[type-arg]
    try:
        models += [offer.open() for offer in offers]
        if not any(isinstance(model, PhraseModel) for model in models):
            pairs = zip(models, offers, strict=True)
            able = [(model, offer) for model, offer in pairs if ATTENTION in model.pipeline.bundle.manifest.graphs]
            models += [ZeroShotModel(cast(RefineModel, model), offer) for model, offer in able[:1]]
    except BaseException:
        for model in models:
            model.close()
        raise
    return models
