"""Finding phrases with a text-to-image model that the service refines with already."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from segrefine.runtime.batching import Company
from segrefine.runtime.chain import refine_segments
from segrefine.runtime.zero_shot import ATTENTION, ZeroShotSegmenter
from segrefine.serve.models import Offer, PhraseModel, RefineModel, ServedModel, attempt, load_picture
from segrefine.serve.parameters import SegmentParameters
from segrefine.serve.work import Answer, Work
from segrefine.settings import ZeroShotSettings


class ZeroShotModel(PhraseModel[ZeroShotSegmenter]):
    """Zero-shot segmentation, refined by G4Seg. It shares the engines of a model that refines.

    Args:
        refining: the model that refines; it must stay open.
        offer: how that model was opened.
        name: the name of this model. A request to segment may also choose it by the name of the model that refines.
    """

    def __init__(self, refining: RefineModel, offer: Offer, name: str) -> None:
        beside = ZeroShotSegmenter.beside(refining.pipeline, offer.setup.engines)
        self._beside, self._refine = beside, refining.pipeline
        self._refining_name = refining.served.name
        super().__init__(beside, replace(refining.served, name=name))

    @property
    def names(self) -> tuple[str, ...]:
        """See `ServedModel.names`."""
        return (self.served.name, self._refining_name)

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
        refined = refine_segments(self._refine, image, found, jointly=True, seed=asked.seed)
        seconds = {"read": read, **found.seconds, "refine": time.perf_counter() - began}
        answer = self.answer(image, replace(refined, seconds=seconds), work)
        return replace(answer, seconds={**seconds, **answer.seconds})


def open_models(offers: Sequence[Offer]) -> list[ServedModel]:  # type: ignore[type-arg]
    """The models of a service; the caller closes them.

    Each model that refines also finds phrases zero-shot, if its bundle has the maps of attention. These models come
    last, so that a label diffusion model is the default for phrases.

    Raises:
        SegrefineError: see `EngineSet.from_setup`.
    """
    models: list[ServedModel] = []  # type: ignore[type-arg]
    taken = {offer.served.name for offer in offers}
    try:
        models += [offer.open() for offer in offers]
        for model, offer in list(zip(models, offers, strict=True)):
            if ATTENTION in model.pipeline.bundle.manifest.graphs:
                name = _free_name(f"{model.served.name}-words", taken)
                taken.add(name)
                models.append(ZeroShotModel(cast(RefineModel, model), offer, name))
    except BaseException:
        for model in models:
            model.close()
        raise
    return models


def _free_name(name: str, taken: Container[str]) -> str:
    """The name, made longer if a bundle has it already."""
    while name in taken:
        name += "-words"
    return name
