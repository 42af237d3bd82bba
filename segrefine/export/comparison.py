"""What parity compares, and how: rows, tolerances, single components."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segrefine.bundle import Manifest, Precision
from segrefine.export.graph import example_inputs
from segrefine.export.modules import GraphModule
from segrefine.runtime.engine_set import EngineSet
from segrefine.runtime.metrics import Mask, iou

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


def compare_components(engines: EngineSet[Any], make: Callable[[str], GraphModule]) -> Iterator[ParityRow]:
    """Every engine against its module, on random inputs of two sizes.

    Args:
        engines: the engines.
        make: component → the module it was exported from.
    """
    manifest = engines.bundle.manifest
    for name, engine in engines.engines.items():
        module = make(name)
        for sizes in trial_sizes(manifest):
            inputs = example_inputs(module, sizes)
            with torch.no_grad():
                expected = module(*inputs)
            outputs = engine(named_inputs(module, inputs))
            wanted = expected if isinstance(expected, tuple) else (expected,)
            errors = [
                relative_error(outputs[t.name], e.numpy()) for t, e in zip(engine.spec.outputs, wanted, strict=True)
            ]
            step = f"batch {sizes['batch']}, latents {sizes['height']}×{sizes['width']}"
            yield row_of(name, step, max(errors), "component", manifest.dtype)


def trial_sizes(manifest: Manifest) -> Iterator[dict[str, int]]:
    """The two sets of sizes, by symbol, at which components are compared."""
    side = manifest.sample_size
    for batch, height, width in ((1, side, side), (3, side, side // 2)):
        pixels = {"height": height, "width": width, "pixels": height * width}
        image = {"image_" + key: pixels[key] * manifest.vae_scale_factor for key in ("height", "width")}
        yield pixels | image | {"batch": batch, "tokens": manifest.tokens}


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


class LoopErrors:
    """Errors of a sampling loop over several scenes."""

    def __init__(self) -> None:
        self._steps: dict[str, list[float]] = {}
        self._probability: list[float] = []
        self._mask: list[float] = []

    def add_steps(self, ours: Steps, theirs: Steps) -> None:
        """Compares the latents of every step of one scene."""
        for (step, got), (same, expected) in zip(ours.seen, theirs.seen, strict=True):
            assert step == same
            self._steps.setdefault(step, []).append(relative_error(got, expected))

    def add_result(self, probabilities: tuple[Floats, Floats], masks: tuple[Mask, Mask]) -> None:
        """Compares one result: our probability and mask, and the reference's."""
        self._probability.append(relative_error(*probabilities))
        self._mask.append(1 - iou(*masks))

    def rows(self, name: str, dtype: Precision) -> Iterator[ParityRow]:
        """The worst error of every step and of the probabilities, and the masks' mean."""
        for step, errors in self._steps.items():
            yield row_of(name, step, max(errors), "latents", dtype)
        yield row_of(name, "probability", max(self._probability), "probability", dtype)
        yield row_of(name, f"mask, mean of {len(self._mask)}", float(np.mean(self._mask)), "mask", dtype)


def relative_error(got: Floats, expected: Floats) -> float:
    """Largest difference of two arrays, over the range of the expected one."""
    return float(np.abs(got - expected).max() / max(np.ptp(expected), 1e-6))


def row_of(component: str, step: str, error: float, kind: str, dtype: Precision) -> ParityRow:
    """The row of a comparison of some `kind` in `TOLERANCES`."""
    return ParityRow(component=component, step=step, error=error, tolerance=TOLERANCES[kind][dtype])
