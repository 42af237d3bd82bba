"""The engines of label diffusion held against the PyTorch reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from segrefine.errors import NumericalError
from segrefine.export.comparison import (
    Floats,
    LoopErrors,
    ParityRow,
    ParityScene,
    Steps,
    Watched,
    compare_components,
    overflow_row,
    served_resolution,
)
from segrefine.export.modules import LABEL_GRAPHS, GraphModule
from segrefine.reference.checkpoint import LabelCheckpoint, load_label_checkpoint
from segrefine.reference.gs import Gs
from segrefine.reference.weight_files import Model
from segrefine.runtime.segmentation import Segment, Segmentation, guide_edges, read_samples
from segrefine.runtime.segmenter import Segmenter
from segrefine.samplers import SAMPLERS
from segrefine.settings import GsSettings

Values = dict[str, int | float | str]
_SAMPLING: Values = {"steps": 4, "samples": 2}
_GUIDED: Values = {**_SAMPLING, "sampler": "ddim", "guidance_scale": 1.5, "image_guidance_scale": 1.2}


def _variants() -> dict[str, Values]:
    """Changes to the bundle's settings that are compared, by name: none, each sampler that diffusers has, guidance."""
    plain: dict[str, Values] = {
        name: {**_SAMPLING, "sampler": name, "guidance_scale": 1.0, "image_guidance_scale": 1.0}
        for name, sampler in SAMPLERS.items()
        if sampler.scheduler
    }
    return {"as set": {}, **plain, "ddim, guided": _GUIDED}


def check_label_parity(
    bundle: str | Path, checkpoint: Model, scenes: Sequence[ParityScene], *, backend: str, device: str
) -> Iterator[ParityRow]:
    """Compares a label diffusion bundle with its checkpoint, row by row; see `check_parity`.

    Every scene is asked for its label and for the background, with the bundle's own settings and with each sampler.
    """
    reference = load_label_checkpoint(checkpoint)
    with Segmenter.from_bundle(bundle, backend=backend, device=device) as segmenter:
        served = segmenter.derive(resolution=served_resolution(segmenter, "label_denoiser"))
        yield from compare_components(served, label_modules(reference))
        for name, changes in _variants().items():
            settings = GsSettings.from_dict(segmenter.settings.to_dict() | changes)
            watched = {component: Watched(engine) for component, engine in segmenter.engines.items()}
            loop = served.derive(watched, settings=settings)
            try:
                yield from _loop(name, loop, reference, scenes)
            except NumericalError as error:
                yield overflow_row(name, watched, error, segmenter.bundle.manifest.dtype)


def label_modules(checkpoint: LabelCheckpoint) -> Callable[[str], GraphModule]:
    """Component → the module that it is exported from."""
    return lambda name: LABEL_GRAPHS[name](checkpoint)


def _loop(
    name: str, segmenter: Segmenter, checkpoint: LabelCheckpoint, scenes: Sequence[ParityScene]
) -> Iterator[ParityRow]:
    errors = LoopErrors()
    for scene in scenes:
        phrases = [f"the {scene.label}", "the background"]
        our_steps, their_steps = Steps(), Steps()
        ours = segmenter(scene.image, phrases, observe=our_steps)
        reference = Gs(checkpoint, segmenter.settings, their_steps)
        theirs = run_label_reference(segmenter, reference, scene, phrases)
        errors.add_steps(our_steps, their_steps)
        for segment, wanted in zip(ours.segments, with_samples(ours, theirs, segmenter.settings), strict=True):
            errors.add_result((segment.probability, wanted.probability), (segment.mask, wanted.mask))
    yield from errors.rows(name, segmenter.bundle.manifest.dtype)


def run_label_reference(segmenter: Segmenter, reference: Gs, scene: ParityScene, phrases: Sequence[str]) -> Floats:
    """The masks (P, K, h, w) that the reference samples from the segmenter's pixels and noise."""
    manifest, s = segmenter.bundle.manifest, reference.settings
    image = torch.from_numpy(segmenter.fit(scene.image).image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    grid = [side // manifest.vae_scale_factor for side in image.shape[2:]]
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((s.samples, reference.model.codec.channels, *grid), np.float32)
    fresh = rng.standard_normal((s.steps - 1, *noise.shape), np.float32) if SAMPLERS[s.sampler].takes_noise else None
    given = None if fresh is None else torch.from_numpy(fresh)
    masks: Floats = reference.segment(image, phrases, torch.from_numpy(noise), given).numpy()
    return masks


def with_samples(result: Segmentation, masks: Floats, settings: GsSettings) -> list[Segment]:
    """The segments of a result for other samples (P, K, h, w), which go through the same steps to the image's size."""
    phrases, fit = [segment.phrase for segment in result.segments], result.segments[0].fit
    return read_samples(phrases, masks, fit, guide_edges(fit, settings))
