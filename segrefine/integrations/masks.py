"""Shared core of the integrations: one object that refines masks, and finds the things that phrases name."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.bundle import Bundle
from segrefine.bundle_sources import local_bundle
from segrefine.engines import Closing, EngineOptions
from segrefine.errors import BundleError
from segrefine.runtime.chain import refine_segments
from segrefine.runtime.engine_set import PipelineSetup
from segrefine.runtime.files.mask import CoarseMask
from segrefine.runtime.named_mask import NamedMask
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.refinement import Refinement
from segrefine.runtime.segmenter import Segmenter
from segrefine.runtime.zero_shot import ATTENTION, ZeroShotSegmenter

Pairs = Sequence[tuple[str, NDArray[Any] | CoarseMask]]
"""Labels, each with its coarse mask."""


@dataclass(frozen=True, kw_only=True)
class Bundles:
    """The models of an integration.

    Attributes:
        refine: bundle that refines: a folder, a hub id or "photo".
        segment: bundle that finds phrases. None for zero-shot by the one that refines, if it can.
        engines: how both run.
    """

    refine: str | Path = "photo"
    segment: str | Path | None = None
    engines: EngineOptions = field(default_factory=EngineOptions)

    @classmethod
    def of(cls, bundle: str | Path) -> Bundles:
        """The models where one bundle is named, whichever method it has.

        Raises:
            BundleError: there is no such bundle.
        """
        finds = Bundle.open(local_bundle(bundle)).manifest.method == "gs"
        return cls(segment=bundle) if finds else cls(refine=bundle)

    def setup_of(self, bundle: str | Path) -> PipelineSetup:
        """Return the setup that opens a bundle."""
        return PipelineSetup(bundle=bundle, engines=self.engines)


class MaskMaker(Closing):
    """Refines masks, and finds phrases; opens each model at its first use. Calls of several threads take turns.

    Args:
        bundles: the models.
    """

    def __init__(self, bundles: Bundles) -> None:
        self.bundles = bundles
        self._stack, self._turn = ExitStack(), threading.RLock()
        self._refiner: Refiner | None = None
        self._segmenter: Segmenter | ZeroShotSegmenter | None = None

    def refine(
        self, image: NDArray[np.uint8], pairs: Pairs, *, preset: str | None = None, seed: int = 0, guard: bool = True
    ) -> tuple[Refinement, ...]:
        """Refine masks jointly; see `Refiner.__call__`.

        Args:
            image: uint8 (H, W, 3).
            pairs: labels, each with its coarse mask.
            preset: name of a preset of the settings; None for the bundle's own.
            seed: random seed of the noise.
            guard: whether changes that cannot be trusted are undone.

        Raises:
            SegrefineError: see `Refiner.__call__`.
        """
        with self._turn:
            return self._open_refiner()(image, pairs, settings=preset, seed=seed, guard=guard)

    def find(
        self, image: NDArray[np.uint8], phrases: Sequence[str], *, preset: str | None = None, seed: int = 0
    ) -> tuple[NamedMask, ...]:
        """The mask of what each phrase names. Masks that are found zero-shot are refined, as on the command line.

        Args:
            image: uint8 (H, W, 3).
            phrases: what to look for.
            preset: name of a preset of the settings; None for the bundle's own.
            seed: random seed of the noise.

        Raises:
            BundleError: there is no model that finds phrases.
            SegrefineError: see `Segmenter.__call__`.
        """
        with self._turn:
            segmenter = self._open_segmenter()
            if isinstance(segmenter, Segmenter):
                return segmenter(image, phrases, settings=preset, seed=seed).segments
            settings = segmenter.settings.change(preset).for_refining()
            found = segmenter(image, phrases, settings=settings, seed=seed)
            return refine_segments(self._open_refiner(), image, found, jointly=True, seed=seed).segments

    def close(self) -> None:
        """Close what is open."""
        self._stack.close()

    def _open_refiner(self) -> Refiner:
        if self._refiner is None:
            opened = Refiner.from_setup(self.bundles.setup_of(self.bundles.refine))
            self._refiner = self._stack.enter_context(opened)
        return self._refiner

    def _open_segmenter(self) -> Segmenter | ZeroShotSegmenter:
        if self._segmenter is None:
            opened = self._make_segmenter()
            self._stack.callback(opened.close)
            self._segmenter = opened
        return self._segmenter

    def _make_segmenter(self) -> Segmenter | ZeroShotSegmenter:
        if self.bundles.segment is not None:
            return Segmenter.from_setup(self.bundles.setup_of(self.bundles.segment))
        bundle = Bundle.open(local_bundle(self.bundles.refine))
        if ATTENTION not in bundle.manifest.graphs:
            hint = "name a bundle that segments, such as photo-gs; or export the model again"
            raise BundleError(f"{bundle.path} cannot find phrases", hint=hint)
        return ZeroShotSegmenter.beside(self._open_refiner(), self.bundles.engines)
