"""The engines of zero-shot segmentation held against the PyTorch reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from segrefine.errors import NumericalError
from segrefine.export.comparison import (
    ParityRow,
    ParityScene,
    Watched,
    compare_components,
    overflow_row,
    relative_error,
    row_of,
    served_resolution,
)
from segrefine.export.modules import GRAPHS, GraphSource
from segrefine.reference.checkpoint import Checkpoint
from segrefine.reference.zero_shot import ZeroShot
from segrefine.runtime.word_maps import WordMap
from segrefine.runtime.zero_shot import ATTENTION, ZeroShotSegmenter

MOST_SCENES = 2
"""The reference denoises each scene under every word alone."""
_LOOP = "zero-shot"


def check_zero_shot_parity(
    bundle: str | Path,
    checkpoint: Checkpoint,
    source: GraphSource,
    scenes: Sequence[ParityScene],
    *,
    backend: str,
    device: str,
) -> Iterator[ParityRow]:
    """Compare the maps of attention, and what is read from them, row by row; see `check_parity`.

    Every scene is asked for its label and for the next scene's.
    """
    with ZeroShotSegmenter.from_bundle(bundle, backend=backend, device=device) as segmenter:
        served = segmenter.derive(resolution=served_resolution(segmenter, "unet"))
        yield from compare_components(served, lambda name: GRAPHS[name](source), [ATTENTION])
        watched = {component: Watched(engine) for component, engine in segmenter.engines.items()}
        try:
            yield from _loop(served.derive(watched), checkpoint, scenes[:MOST_SCENES])
        except NumericalError as error:
            yield overflow_row(_LOOP, watched, error, segmenter.bundle.manifest.dtype)


def _loop(segmenter: ZeroShotSegmenter, checkpoint: Checkpoint, scenes: Sequence[ParityScene]) -> Iterator[ParityRow]:
    dtype = segmenter.bundle.manifest.dtype
    reference = ZeroShot(checkpoint, segmenter.settings)
    errors: dict[str, list[float]] = {"attention of the words": [], "score": [], "probability": []}
    for scene, other in zip(scenes, [*scenes[1:], scenes[0]], strict=True):
        phrases = [f"the {scene.label}", f"the {other.label}"]
        ours = segmenter.look(scene.image, phrases).maps
        theirs = run_zero_shot_reference(segmenter, reference, scene, phrases)
        for got, wanted in zip(ours, theirs, strict=True):
            errors["attention of the words"].append(relative_error(got.attention, wanted.attention))
            errors["score"].append(relative_error(got.score, wanted.score))
            errors["probability"].append(float(np.abs(got.probability - wanted.probability).max()))
    for step, found in errors.items():
        yield row_of(_LOOP, step, max(found), "probability", dtype)


def run_zero_shot_reference(
    segmenter: ZeroShotSegmenter, reference: ZeroShot, scene: ParityScene, phrases: Sequence[str]
) -> list[WordMap]:
    """Run the reference on the segmenter's pixels and noise."""
    manifest, levels = segmenter.bundle.manifest, segmenter.settings.text_timesteps
    image = torch.from_numpy(segmenter.fit(scene.image).image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    grid = [side // manifest.vae_scale_factor for side in image.shape[2:]]
    noise = np.random.default_rng(0).standard_normal((len(levels), manifest.latent_channels, *grid), np.float32)
    return reference.segment(image, phrases, torch.from_numpy(noise))
