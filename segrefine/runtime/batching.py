"""Requests that are computed together: what may share a batch, and what each request gets out of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import SegrefineError
from segrefine.runtime.engine_set import Progress
from segrefine.runtime.segmentation import Segmentation
from segrefine.runtime.segmenter import Segmenter
from segrefine.settings import GsSettings

MOST_PIXELS = 2**23
"""Pixels of the images that are computed together; a larger image is computed alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PhraseRequest:
    """One request for the masks of phrases.

    Attributes:
        image: uint8 (H, W, 3).
        phrases: what to look for.
        seed: random seed of the noise.
        settings: the method's numbers; None for those of the segmenter.
        progress: called after every stage.
    """

    image: NDArray[np.uint8]
    phrases: Sequence[str]
    seed: int = 0
    settings: GsSettings | None = None
    progress: Progress | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, kw_only=True)
class Company:
    """Key of requests that can be computed together.

    Attributes:
        key: the same for all of them.
        share: what the request takes of a batch; shares add up to 1 or less.
    """

    key: Hashable
    share: float


def group_by_company(companies: Mapping[PhraseRequest, Company]) -> list[list[PhraseRequest]]:
    """Requests in groups of one key whose shares add up to 1 or less, in their order."""
    groups: list[list[PhraseRequest]] = []
    open_groups: dict[Hashable, tuple[list[PhraseRequest], float]] = {}
    for request, company in companies.items():
        group, taken = open_groups.get(company.key, ([], math.inf))
        if taken + company.share > 1:
            group = []
            taken = 0.0
            groups.append(group)
        group.append(request)
        open_groups[company.key] = group, taken + company.share
    return groups


@dataclass(frozen=True)
class PhraseBatching:
    """Computes the requests of several callers together on one segmenter. The service and Triton both do it by this.

    Attributes:
        segment: the segmenter.
    """

    segment: Segmenter

    def company(self, size: tuple[int, int], phrases: int, seed: int, settings: GsSettings | None = None) -> Company:
        """Return the key of a request: requests of one shape on the model's grid, one seed and one settings match.

        Args:
            size: height and width of its image.
            phrases: how many there are.
            seed: random seed.
            settings: see `PhraseRequest`.
        """
        settings = settings or self.segment.settings
        grid = self.segment.grid_of(size)
        of_samples = settings.samples * phrases / self.segment.most_samples(grid, settings)
        of_pixels = size[0] * size[1] / MOST_PIXELS
        return Company(key=(grid, seed, settings), share=max(of_samples, of_pixels))

    def run(self, requests: Sequence[PhraseRequest]) -> list[Segmentation | Exception]:
        """The result of each request, or what is wrong with it. One that fails does not take the others along."""
        results: dict[PhraseRequest, Segmentation | Exception] = {}
        companies: dict[PhraseRequest, Company] = {}
        for request in requests:
            try:
                count = len(request.phrases)
                companies[request] = self.company(request.size, count, request.seed, request.settings)
            except Exception as error:
                results[request] = error
        for group in group_by_company(companies):
            results.update(zip(group, self._run_together(group), strict=True))
        return [results[request] for request in requests]

    def _run_together(self, requests: Sequence[PhraseRequest]) -> list[Segmentation | Exception]:
        """Compute requests of one key as one batch; each alone, where that fails."""
        try:
            return list(self._segment(requests))
        except Exception as error:  # whatever it is, it is the answer to these requests, and to them only
            if len(requests) > 1 and isinstance(error, SegrefineError):
                return [self._run_together([request])[0] for request in requests]
            return [error] * len(requests)

    def _segment(self, requests: Sequence[PhraseRequest]) -> list[Segmentation]:
        """The results of requests of one key. An image that comes several times is encoded once."""
        by_image: dict[Hashable, list[PhraseRequest]] = {}
        for request in requests:
            pixels = np.ascontiguousarray(request.image)
            by_image.setdefault((pixels.shape, hashlib.sha256(pixels.data).digest()), []).append(request)
        asked = [(alike[0].image, [p for each in alike for p in each.phrases]) for alike in by_image.values()]

        def tell(stage: str, share: float) -> None:
            for request in requests:
                if request.progress:
                    request.progress(stage, share)

        first = requests[0]
        wholes = self.segment.segment_images(asked, settings=first.settings, seed=first.seed, progress=tell)
        results: dict[PhraseRequest, Segmentation] = {}
        for alike, whole in zip(by_image.values(), wholes, strict=True):
            place = 0
            for request in alike:
                end = place + len(request.phrases)
                results[request] = replace(whole, segments=whole.segments[place:end])
                place = end
        return [results[request] for request in requests]
