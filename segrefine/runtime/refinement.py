"""Result of refining: the mask of each label, and its history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.imaging.grid import FittedImage
from segrefine.runtime.named_mask import NamedMask, describe

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """Result of one round of refinement, on the latent grid (h, w).

    Attributes:
        timestep: noise level of the generation.
        generated: float32 (1, c, h, w) latents of the mask-conditional image.
        discrepancy: float32 (h, w); how much each pixel disagrees with the generation.
        probability: float32 (h, w) foreground probability after the round, in [0, 1].
    """

    timestep: int
    generated: Floats = field(repr=False)
    discrepancy: Floats = field(repr=False)
    probability: Floats = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Refinement(NamedMask):
    """A refined mask.

    Attributes:
        label: what the mask shows.
        mask: bool (H, W), at the image's size.
        probability: float32 (H, W) foreground probability in [0, 1], after the edge step (ours).
        coarse: float32 (H, W), the mask that was refined.
        fit: the image on the model's grid; of a crop that of the crop.
        latents: float32 (1, c, h, w) of the image.
        text_evidence: float32 (h, w); how much better the label explains each pixel than no label does.
        rounds: the trace.
        seconds: time of each stage.
        evidence_worth: what the model's evidence was worth here, from 0 (nothing: it was left out) to 1; None where it
            was not measured. See `segrefine.runtime.worth`.
        confidence: of the mask, in [0, 1], where a guard looked at it; see `segrefine.runtime.guard`.
        confidence_threshold: least confidence of a mask that the guard accepts.
        pixel_confidence: float16 (H, W) in [0, 1], of each pixel, likewise.
        kept_coarse: the guard trusted nothing that refining changed, and this is the coarse mask, all of it: of several
            labels it may overlap others.
        kept_share: of the pixels that refining changed, the share that the guard put back; 0 where none looked at it,
            1 where `kept_coarse`.
        confusion: bool (H, W), where refining could change the mask; of a crop in the crop alone. None for everywhere.
        edge_step: whether the border was moved to the image's edges.
        took_edges: the guard took what the edge step alone made of the coarse mask, and the evidence changed nothing.
        part: rows and columns of the crop that was refined, and that latents, evidence and rounds are of; None for the
            whole image. See `segrefine.runtime.crop`.
    """

    label: str
    mask: NDArray[np.bool_]
    probability: Floats
    coarse: Floats
    fit: FittedImage
    latents: Floats
    text_evidence: Floats
    rounds: tuple[Round, ...]
    seconds: Mapping[str, float]
    evidence_worth: float | None = None
    confidence: float | None = None
    confidence_threshold: float | None = None
    pixel_confidence: NDArray[np.float16] | None = None
    kept_coarse: bool = False
    kept_share: float = 0.0
    confusion: NDArray[np.bool_] | None = None
    edge_step: bool = False
    took_edges: bool = False
    part: tuple[slice, slice] | None = None

    def __repr__(self) -> str:
        facts = [f"area {self.area}", f"{len(self.rounds)} rounds"]
        if self.kept_coarse:
            facts.append("coarse mask kept")
        if self.took_edges:
            facts.append("by the edge step alone")
        return describe(self, self.mask.shape, *facts)

    @property
    def name(self) -> str:
        """The label."""
        return self.label

    @property
    def crop(self) -> tuple[int, int, int, int] | None:
        """The edges of `part` in pixels: left, top, right, bottom."""
        if self.part is None:
            return None
        rows, columns = self.part
        return columns.start, rows.start, columns.stop, rows.stop

    @property
    def distrust(self) -> str | None:
        """A sentence where the guard kept the coarse mask; else None."""
        if not self.kept_coarse:
            return None
        compared = f"confidence {self.confidence:.3f}, expected {self.confidence_threshold:.3f} or more"
        return f"the guard does not trust the refined mask ({compared}): the coarse mask was kept"

    @property
    def paper_probability(self) -> Floats:
        """Float32 (H, W), the paper's result before the edge step, resized from the latent grid on access.

        The coarse mask, where no round was computed because the evidence was worth nothing.
        """
        if not self.rounds:
            return self.coarse
        found = self.fit.restore(self.rounds[-1].probability)
        if self.part is None:
            return found
        whole = self.coarse.copy()
        whole[self.part] = found
        return whole


def divide_pixels(results: Sequence[Refinement]) -> tuple[Refinement, ...]:
    """The same with masks that share out the pixels by probability, see `label_map`.

    A mask that the guard left coarse stays just that, all of it: it may overlap others, as coarse masks may.
    """
    numbers = label_map(each.probability for each in results)
    return tuple(
        replace(each, mask=each.probability > 0.5 if each.kept_coarse else numbers == i)
        for i, each in enumerate(results, 1)
    )


def index_map(
    probability: Iterable[Floats], indices: Sequence[int], size: tuple[int, int], nothing: int = 0
) -> NDArray[np.uint16]:
    """The label map (H, W) of L masks, uint16, with an index for each of them.

    Args:
        probability: float32 (H, W) in [0, 1], of each mask; see `label_map`.
        indices: what each mask is called, up to 65535.
        size: (H, W) of the image.
        nothing: index of the pixels that are in no mask.
    """
    places = label_map(probability) if indices else np.zeros(size, np.uint16)
    return np.array([nothing, *indices], np.uint16)[places]


def label_map(probability: Iterable[Floats]) -> NDArray[np.uint16]:
    """The number of each pixel's most probable label, from 1, or 0 where none passes one half, uint16 (H, W).

    Args:
        probability: float32 (H, W), of each of L labels against all else; of equals the first wins.
    """
    numbers, best = np.zeros(0, np.uint16), np.zeros(0, np.float32)
    for number, each in enumerate(probability, 1):
        if number == 1:
            numbers, best = np.zeros(each.shape, np.uint16), np.full(each.shape, 0.5, np.float32)
        better = each > best
        np.copyto(numbers, np.uint16(number), where=better)
        np.copyto(best, each, where=better)
    return numbers
