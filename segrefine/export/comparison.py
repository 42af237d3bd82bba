"""Comparisons of parity: rows, tolerances, single components."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segrefine.bundle import Manifest, Precision
from segrefine.engines import Closing, Engine, served_sizes
from segrefine.engines.engine import Feeds
from segrefine.errors import NumericalError
from segrefine.export.graph import example_inputs
from segrefine.export.modules import GraphModule
from segrefine.runtime.engine_set import EngineSet
from segrefine.runtime.imaging.filters import Mask
from segrefine.runtime.imaging.metrics import iou

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
EITHER_WAY: Mapping[Precision, float] = {"fp32": 0.0, "fp16": 1e-3}
"""Share of pixels whose probability is not judged.

The comparison of images takes the nearest of several features. In half precision, two of them can change places.
"""


@dataclass(frozen=True, kw_only=True)
class ParityRow:
    """One comparison.

    Attributes:
        component: the graph, or the mode of the loop.
        step: what of it was compared.
        error: largest absolute error over the reference's range; for masks 1 − IoU.
        tolerance: the largest error allowed.
        feeds: inputs of the component, of one sample, for which the loop found that it gives a value that is not
            finite; None where it found none.
    """

    component: str
    step: str
    error: float
    tolerance: float
    feeds: Feeds | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Return whether the error is within its tolerance; an error that is no number is not."""
        return self.error <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class ParityScene:
    """An image, uint8 (H, W, 3); its coarse mask, float32 (H, W) in [0, 1]; and the label."""

    image: NDArray[np.uint8]
    coarse: Floats
    label: str


def compare_components(
    engines: EngineSet[Any], make: Callable[[str], GraphModule], names: Collection[str] | None = None
) -> Iterator[ParityRow]:
    """Compare every engine with its module, on random inputs of the sizes that `trial_sizes` gives.

    Args:
        engines: the engines.
        make: component → the module it was exported from.
        names: the components to compare; None for all.
    """
    manifest = engines.bundle.manifest
    for name, engine in engines.engines.items():
        if names is not None and name not in names:
            continue
        module = make(name)
        for sizes in trial_sizes(manifest, engine):
            inputs = example_inputs(module, sizes)
            with torch.no_grad():
                expected = module(*inputs)
            outputs = engine(named_inputs(module, inputs))
            wanted = expected if isinstance(expected, tuple) else (expected,)
            errors = [
                relative_error(outputs[t.name], e.numpy()) for t, e in zip(engine.spec.outputs, wanted, strict=True)
            ]
            step = f"batch {sizes['batch']}, latents {sizes['height']}×{sizes['width']}"
            if sizes["tokens"] != manifest.tokens:
                step += f", {sizes['tokens']} tokens"
            yield row_of(name, step, max(errors), "component", manifest.dtype)


def trial_sizes(manifest: Manifest, engine: Engine) -> list[dict[str, int]]:
    """The sets of sizes, by symbol, at which a component is compared.

    One sample of the model's own size and three of half its width; of an engine that was built for other sizes, for
    each of its profiles the nearest to these that it serves.
    """
    side, found = manifest.sample_size, []
    for limits in served_sizes(engine):
        for batch, height, width in ((1, side, side), (3, side, side // 2)):
            wanted = {"batch": batch, "height": height, "width": width, "tokens": manifest.tokens}
            sizes = _nearest(wanted, limits, manifest.vae_scale_factor)
            if sizes not in found:
                found.append(sizes)
    return found


def _nearest(sizes: Mapping[str, int], limits: Mapping[str, tuple[int, int]], factor: int) -> dict[str, int]:
    """The sizes moved into the limits of an engine, and those of pixels, which follow from them."""
    sides = {side: limits[f"image_{side}"] for side in ("height", "width") if f"image_{side}" in limits}
    all_limits = {side: (least // factor, most // factor) for side, (least, most) in sides.items()} | dict(limits)
    served = {}
    for symbol, size in sizes.items():
        least, most = all_limits.get(symbol, (size, size))
        served[symbol] = min(max(size, least), most)
    height, width = served["height"], served["width"]
    return served | {"pixels": height * width, "image_height": height * factor, "image_width": width * factor}


def served_resolution(engines: EngineSet[Any], denoiser: str) -> int:
    """Pixels on the longer side of an image at which the loop is compared.

    The model's own, or where the denoiser's engine does not serve it, the nearest that it serves.
    """
    manifest = engines.bundle.manifest
    sides = [max(sizes["height"], sizes["width"]) for sizes in trial_sizes(manifest, engines.engines[denoiser])]
    return manifest.vae_scale_factor * (manifest.sample_size if manifest.sample_size in sides else sides[0])


def named_inputs(module: GraphModule, inputs: Sequence[torch.Tensor]) -> dict[str, NDArray[Any]]:
    """A module's inputs by name, as engines take them."""
    return {tensor.name: value.numpy() for tensor, value in zip(module.spec.inputs, inputs, strict=True)}


class Steps:
    """Keeps the latents of every step, under a name that counts the steps."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Floats]] = []

    def __call__(self, stage: str, timestep: int, latents: Floats | torch.Tensor) -> None:
        """Keeps what a step gave."""
        self.seen.append((f"step {len(self.seen) + 1:2d}: {stage}, t={timestep}", np.asarray(latents).copy()))


class Watched(Closing):
    """An engine that keeps the first sample for which it gave a value that is not finite.

    Attributes:
        spec: the engine's.
        overflowed: the inputs of that sample by name; None where there was none.
    """

    def __init__(self, engine: Engine) -> None:
        self.spec, self._engine = engine.spec, engine
        self.overflowed: Feeds | None = None

    def __call__(self, feeds: Feeds, *, only: str | None = None) -> dict[str, NDArray[Any]]:
        """Return the engine's outputs."""
        outputs = self._engine(feeds, only=only)
        finite = np.all([np.isfinite(each).reshape(len(each), -1).all(1) for each in outputs.values()], 0)
        if self.overflowed is None and not finite.all():
            number = int(finite.argmin())
            self.overflowed = {name: values[number : number + 1].copy() for name, values in feeds.items()}
        return outputs

    def close(self) -> None:
        """Closes the engine."""
        self._engine.close()


def overflow_row(loop: str, engines: Mapping[str, Watched], error: NumericalError, dtype: Precision) -> ParityRow:
    """The row of a loop that ended at a value that is not finite: that of the component which gave it.

    Args:
        loop: its name.
        engines: what it ran on.
        error: its end.
        dtype: of the graphs.
    """
    name = next((name for name, engine in engines.items() if engine.overflowed), loop)
    row = row_of(name, f"{loop}: {error}", np.inf, "component", dtype)
    return replace(row, feeds=engines[name].overflowed if name in engines else None)


class LoopErrors:
    """Errors of a sampling loop over several scenes."""

    def __init__(self) -> None:
        self._steps: dict[str, list[float]] = {}
        self._probability: list[Floats] = []
        self._mask: list[float] = []

    def add_steps(self, ours: Steps, theirs: Steps) -> None:
        """Compares the latents of every step of one scene."""
        for (step, got), (same, expected) in zip(ours.seen, theirs.seen, strict=True):
            assert step == same
            self._steps.setdefault(step, []).append(relative_error(got, expected))

    def add_result(self, probabilities: tuple[Floats, Floats], masks: tuple[Mask, Mask]) -> None:
        """Compares one result: our probability and mask, and the reference's."""
        self._probability.append(relative_errors(*probabilities).ravel())
        self._mask.append(1 - iou(*masks))

    def rows(self, name: str, dtype: Precision) -> Iterator[ParityRow]:
        """Yield the worst error of every step and of the probabilities, and the masks' mean."""
        for step, errors in self._steps.items():
            yield row_of(name, step, max(errors), "latents", dtype)
        every = np.sort(np.concatenate(self._probability))
        aside = int(EITHER_WAY[dtype] * every.size) if np.isfinite(every[-1]) else 0
        yield row_of(name, "probability", float(every[every.size - 1 - aside]), "probability", dtype)
        yield row_of(name, f"mask, mean of {len(self._mask)}", float(np.mean(self._mask)), "mask", dtype)


def relative_error(got: Floats, expected: Floats) -> float:
    """Largest difference of two arrays, over the range of the expected one; infinite where there is no number."""
    return float(relative_errors(got, expected).max())


def relative_errors(got: Floats, expected: Floats) -> Floats:
    """Differences of two arrays, over the range of the expected one; infinite where there is no number."""
    errors = np.abs(got - expected) / max(np.ptp(expected), 1e-6)
    return np.where(np.isfinite(errors), errors, np.inf)


def row_of(component: str, step: str, error: float, kind: str, dtype: Precision) -> ParityRow:
    """The row of a comparison of some `kind` in `TOLERANCES`."""
    return ParityRow(component=component, step=step, error=error, tolerance=TOLERANCES[kind][dtype])
