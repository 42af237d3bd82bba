"""Quality of a model on held-out images: the masks of phrases, and whether the word decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segrefine.reference.gs import Gs
from segrefine.runtime.drawing.pictures import Pixels, Tile, contact_sheet, magnify, overlaid
from segrefine.runtime.imaging.grid import fit_to_grid
from segrefine.runtime.imaging.metrics import average_recall, iou
from segrefine.settings import GsSettings
from segrefine.train.batches import to_image
from segrefine.train.model import LabelModel
from segrefine.train.scenes import Mask, TrainingScene, union

_SEED = 19
_LEAST = 0.004
"""Share of the image that a class must cover to be asked for."""
_CASES = 16
"""Rows of the sheet."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """Result of one phrase in one image.

    Attributes:
        image: number of the image.
        phrase: what was asked for.
        label: the class that it names; "" for a phrase of the data.
        present: whether the image has it.
        iou: with the true mask; for an absent class the share of the image that was found.
        covers: by the name of each class in the image, the share of that class that the mask covers.
    """

    image: int
    phrase: str
    label: str
    present: bool
    iou: float
    covers: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of a validation.

    Attributes:
        miou: mean over classes of the mean IoU of their phrases.
        average_recall: of all phrases, over thresholds of the IoU.
        wrong_word: share of pairs of an object and a wrong word whose mask covers more than half of what the right
            word's mask covers, or whose right word covers nothing; None where no image has a pair.
        pairs: how many pairs there are.
        absent: mean share of the image that the words of absent classes cover; None where none was asked.
        iou_of_classes: mean IoU by class.
        images: images that were looked at.
    """

    miou: float
    average_recall: float
    wrong_word: float | None
    pairs: int
    absent: float | None
    iou_of_classes: dict[str, float]
    images: int

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)


ONE_STEP = GsSettings(samples=1, steps=1)
"""What validation samples with."""


def validate(
    model: LabelModel,
    scenes: Sequence[TrainingScene],
    first: int,
    step: int,
    classes: Sequence[str],
    settings: GsSettings = ONE_STEP,
) -> list[Finding]:
    """Find the phrases of every `step`-th scene, from number `first` on."""
    found: list[Finding] = []
    for number in range(first, len(scenes), step):
        found += _look(model, scenes[number], number, classes, settings)
    return found


def summarise(findings: Sequence[Finding]) -> Report:
    """The figures over all findings."""
    by_class: dict[str, list[float]] = {}
    for finding in findings:
        if finding.present:
            by_class.setdefault(finding.label, []).append(finding.iou)
    means = {label: float(np.mean(values)) for label, values in sorted(by_class.items())}
    recalled = [finding.iou for finding in findings if finding.present]
    wrong = list(_wrong_words(findings))
    absent = [finding.iou for finding in findings if not finding.present]
    return Report(
        miou=float(np.mean(list(means.values()))) if means else 0.0,
        average_recall=average_recall(recalled) if recalled else 0.0,
        wrong_word=float(np.mean(wrong)) if wrong else None,
        pairs=len(wrong),
        absent=float(np.mean(absent)) if absent else None,
        iou_of_classes=means,
        images=len({finding.image for finding in findings}),
    )


def _wrong_words(findings: Sequence[Finding]) -> Iterator[bool]:
    """Yield for each object and other class of its image: whether the other word covers over half as much of it.

    A right word that covers nothing counts as wrong too: a model that never finds anything is not good at words.
    """
    by_image: dict[int, list[Finding]] = {}
    for finding in findings:
        if finding.label and finding.present:
            by_image.setdefault(finding.image, []).append(finding)
    for several in by_image.values():
        for right in several:
            for wrong in several:
                if wrong is not right:
                    own = right.covers[right.label]
                    yield own == 0 or wrong.covers[right.label] > 0.5 * own


def _look(
    model: LabelModel, scene: TrainingScene, number: int, classes: Sequence[str], settings: GsSettings
) -> list[Finding]:
    masks = {label: union((r.mask for r in scene.regions if r.label == label), scene.size)
             for label in sorted({region.label for region in scene.regions if region.label})}  # fmt: skip
    counted = ~scene.ignored
    shown = {label: mask for label, mask in masks.items() if (mask & counted).mean() >= _LEAST}
    asked: list[tuple[str, str, Mask | None]] = [(f"the {label}", label, mask) for label, mask in shown.items()]
    absent = [name for name in classes if name in scene.known and name not in masks]
    if absent:
        name = absent[number % len(absent)]
        asked.append((f"the {name}", name, None))
    own = [(text, "", region.mask) for region in scene.regions for text in region.phrases[:1]]
    asked += own[:4]
    if not asked:
        return []
    maps = sample_masks(model, scene.image, [text for text, _, _ in asked], number, settings).mean(1)
    findings = []
    for (text, label, mask), values in zip(asked, maps, strict=True):
        inside = (values > 0.5) & counted
        score = float(inside.mean()) if mask is None else iou(inside, mask & counted)
        covers = {name: float((inside & each).sum() / max(1, (each & counted).sum())) for name, each in shown.items()}
        findings.append(
            Finding(image=number, phrase=text, label=label, present=mask is not None, iou=score, covers=covers)
        )
    return findings


@torch.no_grad()
def sample_masks(
    model: LabelModel, image: NDArray[np.uint8], phrases: Sequence[str], seed: int, settings: GsSettings = ONE_STEP
) -> NDArray[np.float32]:
    """The sampled masks (P, K, H, W) of phrases in an image, as the segmenter draws them, without its edge step."""
    fit = fit_to_grid(image, side=model.side, multiple=model.multiple)
    pixels = to_image(fit.image[None]).to(next(model.denoiser.parameters()).device)
    cells = (side // model.checkpoint.vae_scale_factor for side in fit.grid)
    size = (settings.samples, model.checkpoint.codec.channels, *cells)
    noise = torch.randn(size, generator=torch.Generator().manual_seed(_SEED + seed)).to(pixels.device)
    sampler = Gs(model.checkpoint, replace(settings, context=model.context))
    masks = sampler.segment(pixels, phrases, noise).float().cpu().numpy()
    return np.stack([[fit.restore(sample) for sample in of_phrase] for of_phrase in masks])


def draw_sheet(model: LabelModel, scenes: Sequence[TrainingScene]) -> Pixels:
    """A picture of the first scenes: the image, and what each class in it is taken for, next to its true mask."""
    rows = []
    for number, scene in enumerate(scenes[:_CASES]):
        large = magnify(scene.image)
        tiles = [Tile(picture=large, caption=f"image {number + 1}")]
        named = [(f"the {region.label}", region.mask) for region in scene.regions if region.label]
        named += [(text, region.mask) for region in scene.regions for text in region.phrases[:1]]
        named = sorted(named, key=lambda each: -int(each[1].sum()))[:2]
        if not named:
            continue
        samples = sample_masks(model, scene.image, [text for text, _ in named], number)
        for (text, true), of_phrase in zip(named, samples, strict=True):
            found = of_phrase.mean(0) > 0.5
            tiles.append(Tile(picture=overlaid(large, found), caption=text, note=f"IoU {iou(found, true):.2f}"))
            tiles.append(Tile(picture=overlaid(large, true), caption="true mask"))
        while len(tiles) < 5:
            tiles.append(Tile(picture=np.full_like(large, 255), caption=""))
        rows.append(tiles)
    return contact_sheet(rows)


def split_off(count: int, share: float, limit: int, seed: int) -> tuple[list[int], list[int]]:
    """The rows of a data set that train, and those that are held out."""
    held = min(limit, max(1, round(count * share))) if share and count > 1 else 0
    order = np.random.default_rng([3, seed]).permutation(count).tolist()
    return sorted(order[held:]), sorted(order[:held])
