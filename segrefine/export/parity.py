"""Engines held against the PyTorch reference: every component, every step of the loop, the final mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from segrefine.bundle import Bundle, Manifest
from segrefine.engines import DEFAULT, Engine
from segrefine.engines.engine import Feeds
from segrefine.errors import ExportError, NumericalError, SettingsError
from segrefine.export.comparison import (
    LoopErrors,
    ParityRow,
    ParityScene,
    Steps,
    Watched,
    compare_components,
    named_inputs,
    overflow_row,
    served_resolution,
    trial_sizes,
)
from segrefine.export.graph import example_inputs
from segrefine.export.label_parity import check_label_parity, label_modules
from segrefine.export.locate import Divergence, locate_divergence
from segrefine.export.modules import GRAPHS, GraphModule, GraphSource
from segrefine.export.zero_shot_parity import check_zero_shot_parity
from segrefine.reference.attention import attend_naive
from segrefine.reference.checkpoint import Checkpoint, load_checkpoint, load_label_checkpoint
from segrefine.reference.configs import is_label_checkpoint
from segrefine.reference.g4seg import G4Seg, ReferenceResult
from segrefine.reference.weight_files import Model
from segrefine.runtime.imaging.edges import EdgeSettings, logit, sharpen
from segrefine.runtime.imaging.filters import pool
from segrefine.runtime.imaging.upsampling import upsample
from segrefine.runtime.pipeline import Refiner
from segrefine.runtime.refinement import Refinement
from segrefine.runtime.zero_shot import ATTENTION
from segrefine.settings import G4SegSettings, Mode


def check_parity(
    bundle: str | Path,
    checkpoint: Model,
    scenes: Sequence[ParityScene],
    *,
    backend: str = DEFAULT.name,
    device: str = "cpu",
) -> Iterator[ParityRow]:
    """Compares a bundle's engines with the checkpoint that it was exported from, row by row.

    Args:
        bundle: folder that `segrefine export` wrote.
        checkpoint: what it was made from: a diffusers folder or a single file.
        scenes: what the loop is run on: in both modes, and with the preset "paper".
        backend: what runs the graphs.
        device: where it runs them.

    Raises:
        SegrefineError: one of the two cannot be loaded or run.
    """
    manifest = Bundle.open(bundle).manifest
    if manifest.quantized:
        hint = "check the float32 bundle; `segrefine inspect` says how the masks of this one compare with its masks"
        raise SettingsError(subject=bundle, expected="a bundle in floats", got="one in int8", hint=hint)
    _check_kind(checkpoint, manifest.method)
    if manifest.method == "gs":
        yield from check_label_parity(bundle, checkpoint, scenes, backend=backend, device=device)
        return
    reference = load_checkpoint(checkpoint)
    with Refiner.from_bundle(bundle, backend=backend, device=device) as refiner:
        served = refiner.derive(resolution=served_resolution(refiner, "unet"))
        yield from compare_components(served, _modules(reference, refiner.bundle.manifest))
        for name, settings in _runs(refiner.settings).items():
            yield from compare_loop(served, reference, scenes, name, settings)
    if ATTENTION in refiner.bundle.manifest.graphs:
        source = _source(reference, refiner.bundle.manifest)
        yield from check_zero_shot_parity(bundle, reference, source, scenes, backend=backend, device=device)


def _check_kind(checkpoint: Model, method: str) -> None:
    """Check that a checkpoint is of the kind that a bundle was exported from.

    Raises:
        ExportError: it is of the other kind.
    """
    kinds = {"gs": "a label diffusion model", "g4seg": "a text-to-image model"}
    found = "gs" if is_label_checkpoint(checkpoint) else "g4seg"
    if found != method:
        raise ExportError(
            subject="the reference", expected=f"{kinds[method]}, as the bundle is of one", got=kinds[found],
            hint="name the model that the bundle was exported from",
        )  # fmt: skip


def locate_divergences(
    bundle: Bundle,
    checkpoint: Model,
    components: Mapping[str, Feeds | None],
    *,
    backend: str = DEFAULT.name,
    device: str = "cpu",
) -> Iterator[Divergence | None]:
    """Yield the first tensor in which each component differs from its checkpoint; see `locate_divergence`.

    Args:
        bundle: the bundle.
        checkpoint: what it was exported from.
        components: names of its graphs, each with inputs for which it is known to go wrong; random ones are
            tried after those, or where there are none.
        backend: what runs them.
        device: where it runs them.
    """
    if bundle.manifest.method == "gs":
        make = label_modules(load_label_checkpoint(checkpoint))
    else:
        make = _modules(load_checkpoint(checkpoint), bundle.manifest)
    for component, feeds in components.items():
        trials = partial(_trials, make(component), bundle.manifest, feeds)
        yield locate_divergence(bundle, checkpoint, component, trials, backend=backend, device=device)


def _trials(module: GraphModule, manifest: Manifest, known: Feeds | None, engine: Engine) -> Iterator[Feeds]:
    """Yield inputs to try a component on: `known`, then random inputs."""
    if known is not None:
        yield known
    for sizes in trial_sizes(manifest, engine):
        yield named_inputs(module, example_inputs(module, sizes))


def _source(checkpoint: Checkpoint, manifest: Manifest) -> GraphSource:
    return GraphSource(checkpoint=checkpoint, attend=attend_naive, taps=manifest.feature_taps)


def _modules(checkpoint: Checkpoint, manifest: Manifest) -> Callable[[str], GraphModule]:
    source = _source(checkpoint, manifest)
    return lambda name: GRAPHS[name](source)


def _runs(settings: G4SegSettings) -> dict[str, G4SegSettings]:
    """The settings that the loop is run with, by the name of their rows.

    The worth of the evidence is not measured: every step is compared, also where a model knows nothing.
    """
    modes: tuple[Mode, ...] = get_args(Mode)
    runs = {mode: replace(settings, mode=mode, worth_range=()) for mode in modes}
    return runs | {"paper": settings.with_preset("paper")}


def compare_loop(
    refiner: Refiner, checkpoint: Checkpoint, scenes: Sequence[ParityScene], name: str, settings: G4SegSettings
) -> Iterator[ParityRow]:
    """Compare every step of the loop and the final mask, under one choice of settings.

    Args:
        refiner: the engines.
        checkpoint: what their bundle was exported from.
        scenes: what the loop is run on.
        name: what the rows call the settings.
        settings: the method's numbers.
    """
    dtype = refiner.bundle.manifest.dtype
    watched = {component: Watched(engine) for component, engine in refiner.engines.items()}
    engines = refiner.derive(watched, settings=settings)
    errors = LoopErrors()
    for scene in scenes:
        ours_steps, their_steps = Steps(), Steps()
        try:
            ours = engines(scene.image, scene.coarse, scene.label, crop=False, guard=False, observe=ours_steps)
        except NumericalError as error:
            yield overflow_row(name, watched, error, dtype)
            return
        reference = G4Seg(checkpoint, settings, refiner.bundle.manifest.feature_taps, their_steps)
        theirs, their_mask = run_reference(refiner, reference, scene)
        errors.add_steps(ours_steps, their_steps)
        probabilities = _on_grid(refiner, ours), theirs.probability.numpy()[0, 0]
        errors.add_result(probabilities, (ours.mask, their_mask))
    yield from errors.rows(name, dtype)


def _on_grid(refiner: Refiner, result: Refinement) -> NDArray[np.float32]:
    """The probability (h, w) after the last round; the coarse mask where the evidence was worth nothing."""
    if result.rounds:
        return result.rounds[-1].probability
    return pool(result.fit.apply(result.coarse), refiner.bundle.manifest.vae_scale_factor)


def run_reference(
    refiner: Refiner, reference: G4Seg, scene: ParityScene, device: str = "cpu"
) -> tuple[ReferenceResult, NDArray[np.bool_]]:
    """Refine a scene with the reference, whose model is on `device`; return the result and the mask, bool (H, W).

    It gets the refiner's pixels, coarse mask and noise, and its probability comes to full size as the refiner's does.
    """
    manifest = refiner.bundle.manifest
    fit = refiner.fit(scene.image)
    coarse = pool(fit.apply(scene.coarse), manifest.vae_scale_factor)
    shape = (reference.settings.noises, manifest.latent_channels, *coarse.shape)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(shape, np.float32))
    image = torch.from_numpy(fit.image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    mask = torch.from_numpy(coarse)[None, None]
    with torch.device(device):  # where the reference makes its own tensors
        result = reference.refine(image.to(device), mask.to(device), scene.label, noise.to(device))
    probability = result.probability.cpu().numpy()[0, 0]
    if not reference.settings.edges:
        return result, upsample(fit, scene.coarse, coarse, probability) > 0.5
    worth = 1.0 if result.worth is None else result.worth
    gain = np.float32(worth) * (logit(probability) - logit(coarse))
    return result, sharpen(scene.image, scene.coarse, fit.restore(gain), EdgeSettings(), worth=worth) > 0.5
