"""One image with its coarse masks, as the method of G4Seg works on it: everything that the steps of a call share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.denoiser import NOTHING, Denoiser
from segrefine.runtime.evidence import against_others, gather_evidence
from segrefine.runtime.files.mask import CheckedMask
from segrefine.runtime.imaging.edges import EdgeSettings, logit, sharpen
from segrefine.runtime.imaging.grid import FittedImage
from segrefine.runtime.imaging.upsampling import upsample
from segrefine.runtime.refinement import Floats, Round
from segrefine.settings import G4SegSettings

EDGES = EdgeSettings()
"""The edge step's numbers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedImage:
    """An image and the masks of L labels, on the model's grid.

    Attributes:
        image: uint8 (H, W, 3).
        masks: L of them, checked.
        settings: the method's numbers.
        fit: the image on the model's grid.
        start: float32 (L, h, w), the coarse masks on the latent grid.
        changeable: bool (L, h, w), where they may change.
        latents: float32 (1, c, h, w) of the image.
        noise: float32 (K, c, h, w), drawn once for the whole call.
        denoiser: the UNet under the labels' prompts.
    """

    image: NDArray[np.uint8]
    masks: Sequence[CheckedMask]
    settings: G4SegSettings
    fit: FittedImage
    start: Floats
    changeable: NDArray[np.bool_]
    latents: Floats
    noise: Floats
    denoiser: Denoiser

    @property
    def prompt(self) -> int:
        """The prompt under which features are taken: several labels share those of the image."""
        return 0 if len(self.masks) == 1 else NOTHING

    def combine_evidence(self, text: Floats) -> Floats:
        """The log-odds (L, h, w) that the image and the text evidence (L, h, w) give each label."""
        labels = [mask.label for mask in self.masks]
        telling = against_others(text, labels, self.settings.text_rivalry)
        pairs = zip(self.start, telling, strict=True)
        return np.stack([gather_evidence(self.fit.image, *each, self.settings) for each in pairs])

    def sharpen(self, probability: Floats, worth: Floats) -> list[Floats]:
        """Carry what was gained to full size, and move each border to the edges of the image.

        Args:
            probability: float32 (L, h, w) after the last round.
            worth: float32 (L,) in [0, 1]; how much of the gain counts.

        Returns:
            A probability (H, W) of each label.
        """
        gain = worth[:, None, None] * (logit(probability) - logit(self.start))
        sharp = []
        for number, (mask, gained) in enumerate(zip(self.masks, gain, strict=True)):
            if self.settings.edges:
                added = self.fit.restore(gained)
                found = sharpen(self.image, mask.probability, added, EDGES, worth=float(worth[number]))
            else:
                found = upsample(self.fit, mask.probability, self.start[number], probability[number])
            sharp.append(change_within(mask.confusion, found, mask.probability))
        return sharp


def move_to_edges(image: NDArray[np.uint8], coarse: Floats, confusion: NDArray[np.bool_] | None) -> Floats:
    """Move the border of a coarse mask (H, W) to the edges of an image (H, W, 3), without evidence."""
    found = sharpen(image, coarse, np.zeros_like(coarse), EDGES, worth=0.0)
    return change_within(confusion, found, coarse)


def change_within(confusion: NDArray[np.bool_] | None, changed: Floats, coarse: Floats) -> Floats:
    """The changed mask (H, W) in the confusion area, the coarse one elsewhere; None for everywhere."""
    return changed if confusion is None else np.where(confusion, changed, coarse)


@dataclass(frozen=True, kw_only=True, eq=False)
class JointRound:
    """One round of L labels: a `Round` whose arrays have the labels as their first axis."""

    timestep: int
    generated: Floats
    discrepancy: Floats
    probability: Floats

    def of_label(self, number: int) -> Round:
        """One label's part."""
        return Round(
            timestep=self.timestep,
            generated=self.generated[number : number + 1],
            discrepancy=self.discrepancy[number],
            probability=self.probability[number],
        )
