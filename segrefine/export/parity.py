"""Engines held against the PyTorch reference: every component, every step of the loop, the final mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segrefine.bundle import Precision
from segrefine.export.graph import example_inputs
from segrefine.export.modules import GRAPHS, Source
from segrefine.reference.attention import inject_masks
from segrefine.reference.checkpoint import Checkpoint, load_checkpoint
from segrefine.reference.g4seg import G4Seg, ReferenceResult
from segrefine.runtime.edges import logit, sharpen
from segrefine.runtime.filters import pool
from segrefine.runtime.grid import fit_to_grid
from segrefine.runtime.metrics import iou
from segrefine.runtime.pipeline import LATENT_MULTIPLE, Refiner
from segrefine.settings import Mode

Floats = NDArray[np.float32]

TOLERANCES: Mapping[str, Mapping[Precision, float]] = {
    # one forward pass: float32 sums in another order; half precision keeps eleven bits of every product
    "component": {"fp32": 1e-4, "fp16": 1e-2},
    # the loop feeds errors back into the UNet, which amplifies them
    "latents": {"fp32": 1e-3, "fp16": 5e-2},
    # probabilities change by sharp functions of the latents
    "probability": {"fp32": 1e-3, "fp16": 5e-2},
    # pixels at probability one half may go either way: 1 − IoU
    "mask": {"fp32": 1e-3, "fp16": 2e-2},
}
"""Largest error, relative to the reference's range; for masks 1 − IoU."""


@dataclass(frozen=True, kw_only=True)
class ParityRow:
    """One comparison.

    Attributes:
        component: the graph, or the mode of the loop.
        step: what of it was compared.
        error: largest absolute error over the reference's range; for masks 1 − IoU.
        tolerance: the largest error allowed.
    """

    component: str
    step: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the error is within its tolerance; an error that is no number is not."""
        return self.error <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image, uint8 (H, W, 3); its coarse mask, float32 (H, W) in [0, 1]; and the label."""

    image: NDArray[np.uint8]
    coarse: Floats
    label: str


def check_parity(
    bundle: str | Path,
    checkpoint: str | Path,
    scenes: Sequence[Scene],
    *,
    backend: str = "onnxruntime",
    device: str = "cpu",
) -> Iterator[ParityRow]:
    """Compares a bundle's engines with the checkpoint that it was exported from, row by row.

    Args:
        bundle: folder that `segrefine export` wrote.
        checkpoint: the diffusers folder it was made from.
        scenes: what the loop is run on, in both modes.
        backend: what runs the graphs.
        device: where it runs them.

    Raises:
        SegrefineError: one of the two cannot be loaded or run.
    """
    reference = load_checkpoint(checkpoint)
    with Refiner.from_bundle(bundle, backend=backend, device=device) as refiner:
        yield from _components(refiner, reference)
        for mode in ("one-step", "loop"):
            yield from _loop(refiner, reference, scenes, mode)


def _components(refiner: Refiner, checkpoint: Checkpoint) -> Iterator[ParityRow]:
    manifest = refiner.bundle.manifest
    source = Source(checkpoint=checkpoint, injector=inject_masks(checkpoint.unet), taps=manifest.feature_taps)
    side = manifest.sample_size
    for name, engine in refiner.engines.items():
        module = GRAPHS[name](source)
        for batch, height, width in ((1, side, side), (3, side, side // 2)):
            pixels = {"height": height, "width": width, "pixels": height * width}
            image = {"image_" + key: pixels[key] * manifest.vae_scale_factor for key in ("height", "width")}
            inputs = example_inputs(module, pixels | image | {"batch": batch, "tokens": manifest.tokens})
            with torch.no_grad():
                expected = module(*inputs)
            outputs = engine(
                {tensor.name: value.numpy() for tensor, value in zip(engine.spec.inputs, inputs, strict=True)}
            )
            wanted = expected if isinstance(expected, tuple) else (expected,)
            errors = [_relative(outputs[t.name], e.numpy()) for t, e in zip(engine.spec.outputs, wanted, strict=True)]
            yield _row(name, f"batch {batch}, latents {height}×{width}", max(errors), "component", manifest.dtype)


def _loop(refiner: Refiner, checkpoint: Checkpoint, scenes: Sequence[Scene], mode: Mode) -> Iterator[ParityRow]:
    settings = replace(refiner.settings, mode=mode)
    engines = Refiner(refiner.bundle, refiner.engines, settings=settings)
    drift: dict[str, list[float]] = {}
    probability, mask = [], []
    for scene in scenes:
        ours_steps, their_steps = _Steps(), _Steps()
        ours = engines(scene.image, scene.coarse, scene.label, observe=ours_steps)
        reference = G4Seg(checkpoint, settings, refiner.bundle.manifest.feature_taps, their_steps)
        theirs, their_mask = run_reference(refiner, reference, scene)
        for (step, got), (same, expected) in zip(ours_steps.seen, their_steps.seen, strict=True):
            assert step == same
            drift.setdefault(step, []).append(_relative(got, expected))
        probability.append(_relative(ours.rounds[-1].probability, theirs.probability.numpy()[0, 0]))
        mask.append(1 - iou(ours.mask, their_mask))
    dtype = refiner.bundle.manifest.dtype
    for step, errors in drift.items():
        yield _row(mode, step, max(errors), "latents", dtype)
    yield _row(mode, "probability", max(probability), "probability", dtype)
    yield _row(mode, f"mask, mean of {len(mask)} scenes", float(np.mean(mask)), "mask", dtype)


class _Steps:
    """Keeps the latents of every step, under a name that counts the steps."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Floats]] = []

    def __call__(self, stage: str, timestep: int, latents: Floats | torch.Tensor) -> None:
        self.seen.append((f"step {len(self.seen) + 1:2d}: {stage}, t={timestep}", np.asarray(latents).copy()))


def run_reference(refiner: Refiner, reference: G4Seg, scene: Scene) -> tuple[ReferenceResult, NDArray[np.bool_]]:
    """What the reference makes of a scene, and its mask, bool (H, W).

    It gets the refiner's pixels, coarse mask and noise, and its probability goes through the refiner's edge step.
    """
    manifest = refiner.bundle.manifest
    cell = manifest.vae_scale_factor
    fit = fit_to_grid(scene.image, side=manifest.sample_size * cell, multiple=LATENT_MULTIPLE * cell)
    coarse = pool(fit.apply(scene.coarse), cell)
    shape = (reference.settings.noises, manifest.latent_channels, *coarse.shape)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(shape, np.float32))
    image = torch.from_numpy(fit.image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    result = reference.refine(image, torch.from_numpy(coarse)[None, None], scene.label, noise)
    gain = logit(result.probability.numpy()[0, 0]) - logit(coarse)
    return result, sharpen(scene.image, scene.coarse, fit.restore(gain), refiner.edges) > 0.5


def _relative(got: Floats, expected: Floats) -> float:
    return float(np.abs(got - expected).max() / max(np.ptp(expected), 1e-6))


def _row(component: str, step: str, error: float, kind: str, dtype: Precision) -> ParityRow:
    return ParityRow(component=component, step=step, error=error, tolerance=TOLERANCES[kind][dtype])
