"""The twelve scenes that ship with segrefine, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segrefine.assets import demo_labels, demo_samples
from segrefine.runtime.image import load_image
from segrefine.runtime.mask import load_mask


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A scene with a coarse and a true mask.

    Attributes:
        name: number, label and how the coarse mask was made.
        label: what the mask shows.
        image: uint8 (H, W, 3) RGB.
        coarse: float32 (H, W) in [0, 1].
        truth: bool (H, W).
    """

    name: str
    label: str
    image: NDArray[np.uint8]
    coarse: NDArray[np.float32]
    truth: NDArray[np.bool_]


def load_samples() -> list[Sample]:
    """The shipped scenes, in the order of their names."""
    samples = []
    for name, label in sorted(demo_labels().items()):
        image = load_image(demo_samples() / "images" / f"{name}.png")
        coarse, truth = (
            load_mask(demo_samples() / part / f"{name}.png", image.shape[:2]) for part in ("masks", "truth")
        )
        samples.append(Sample(name=name, label=label, image=image, coarse=coarse, truth=truth > 0.5))
    return samples
