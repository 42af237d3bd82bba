"""Result of segmenting: the mask of each phrase, and the merging of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.runtime.files.output import draw_label_map, save_label_map
from segrefine.runtime.imaging.edges import EdgeGuide, EdgeSettings, follow_edges, logit
from segrefine.runtime.imaging.grid import FittedImage
from segrefine.runtime.named_mask import NamedMask, describe, to_detections
from segrefine.runtime.refinement import label_map
from segrefine.settings import GsSettings, ZeroShotSettings

Floats = NDArray[np.float32]
EDGES, MASK_WEIGHT = EdgeSettings(contrast=1.0, iterations=2), 0.5
"""The edge step's numbers, and the weight in it of the sampled mask's log-odds; measured on validation scenes."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Segment(NamedMask):
    """Mask of one phrase. Maps are kept on the model's grid, and brought to the image's size on request.

    Attributes:
        phrase: the words.
        samples: float32 (K, h, w) in [0, 1], the masks that were drawn, on the model's grid.
        mean: float32 (h, w), the samples' mean, its border moved to the image's edges unless the settings leave that.
        fit: the way from the grid to the image.
        refined: float32 (H, W) in [0, 1], what G4Seg made of the samples' mean; None where it was not asked, or had
            nothing to go by.
    """

    phrase: str
    samples: Floats
    mean: Floats
    fit: FittedImage
    refined: Floats | None = None

    def __repr__(self) -> str:
        return describe(self, self.fit.size, f"{len(self.samples)} samples")

    @property
    def name(self) -> str:
        """The phrase."""
        return self.phrase

    @property
    def probability(self) -> Floats:
        """Return each pixel's probability of the phrase: `refined`, or else `mean`; float32 (H, W) in [0, 1]."""
        if self.refined is not None:
            return self.refined
        return self.fit.restore(self.mean).clip(0, 1)

    @property
    def uncertainty(self) -> Floats:
        """Standard deviation of the samples, float32 (H, W) in [0, 0.5]; 0 where there is one sample."""
        return self.fit.restore(self.samples.std(0)).clip(0, 0.5)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Return the mask of the phrase, bool (H, W): a probability above one half."""
        return self.probability > 0.5

    @property
    def confidence(self) -> float:
        """Return the samples' mean within their mask, in (0.5, 1]; 0 if that mask or `mask` is empty."""
        mean, given = self.samples.mean(0), self.mean if self.refined is None else self.refined
        inside = mean[mean > 0.5]
        return float(inside.mean()) if inside.size and (given > 0.5).any() else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """The masks of an image's phrases.

    Attributes:
        segments: one for each phrase, in their order.
        seconds: time of each stage; texts are encoded beside the image, and `text` is what they take longer than it.
    """

    segments: tuple[Segment, ...]
    seconds: Mapping[str, float] = field(repr=False)

    def label_map(self) -> NDArray[np.uint16]:
        """Return each pixel's most probable phrase, from 1; 0 if none passes one half; uint16 (H, W).

        Phrases are compared one at a time, so that memory does not grow with their number.
        """
        return label_map(segment.probability for segment in self.segments)

    def to_pil(self) -> Image.Image:
        """The label map as a palette picture in the colours of PASCAL VOC."""
        return draw_label_map(self.label_map())

    def save(self, file: str | Path) -> None:
        """Write the label map, as a PNG or a `.npy`; see `segrefine.runtime.files.output.save_label_map`.

        Raises:
            OutputError: the name has another ending, or the folder cannot be written to.
        """
        save_label_map(file, self.label_map())

    def to_detections(self) -> dict[str, Any]:
        """All segments as arguments of `supervision.Detections`; see `segrefine.to_detections`."""
        return to_detections(self.segments)


def guide_edges(fit: FittedImage, settings: GsSettings | ZeroShotSettings) -> EdgeGuide | None:
    """Return the edge step's data of an image; None if the settings leave the step out."""
    return EdgeGuide(fit.image, EDGES) if settings.edges else None


def read_samples(phrases: Sequence[str], samples: Floats, fit: FittedImage, guide: EdgeGuide | None) -> list[Segment]:
    """Merge the samples of each phrase; a mask that is empty has no border to move.

    Args:
        phrases: P of them.
        samples: float32 (P, K, h, w) in [0, 1].
        fit: the image on the model's grid.
        guide: see `guide_edges`.
    """
    means = [fit.at_pixels(mean) for mean in samples.mean(1)] if guide else list(samples.mean(1))
    seen = [number for number, mean in enumerate(means) if (mean > 0.5).any()]
    if guide and seen:
        logits = np.float32(MASK_WEIGHT) * logit(np.stack([means[number] for number in seen]))
        for number, sharp in zip(seen, follow_edges(guide, logits), strict=True):
            means[number] = sharp
    parts = zip(phrases, samples, means, strict=True)
    return [Segment(phrase=phrase, samples=each, mean=mean, fit=fit) for phrase, each, mean in parts]
