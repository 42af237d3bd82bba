"""Writing an answer ends in its midst once nobody waits for it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from segrefine.runtime.imaging.grid import fit_to_grid
from segrefine.runtime.segmentation import Segment, Segmentation
from segrefine.serve.answers import segment_answer
from segrefine.serve.inputs import Pictures
from segrefine.serve.parameters import SegmentParameters
from segrefine.serve.stopping import Stopped
from segrefine.serve.work import Media, Work
from segrefine.settings import GsSettings

IMAGE = np.full((16, 16, 3), 128, np.uint8)
PHRASES = ["the car", "the fox", "the tree", "all apples"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Noted(Segment):
    """A segment that notes when its map is drawn; at that of the second phrase the client is gone."""

    work: Work
    drawn: list[str]

    @property
    def probability(self) -> NDArray[np.float32]:
        self.drawn.append(self.phrase)
        if self.phrase == PHRASES[1]:
            self.work.abandoned.set()
        return super().probability


@pytest.mark.parametrize("media", ["png", "json"])
def test_nothing_is_drawn_for_nobody(media: Media) -> None:
    drawn: list[str] = []
    work = Work(
        pictures=Pictures(image=b"", size=IMAGE.shape[:2]), media=media, deadline=time.monotonic() + 60,
        parameters=SegmentParameters.model_validate({"phrases": PHRASES}), settings=GsSettings(),
    )  # fmt: skip
    grid, samples = fit_to_grid(IMAGE, side=16, multiple=8), np.ones((1, 8, 8), np.float32)
    segments = [
        Noted(phrase=phrase, samples=samples, mean=samples[0], fit=grid, work=work, drawn=drawn) for phrase in PHRASES
    ]
    with pytest.raises(Stopped):
        segment_answer(IMAGE, Segmentation(segments=tuple(segments), seconds={}), work)
    assert set(drawn) == set(PHRASES[:2])
