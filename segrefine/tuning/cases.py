"""Images with coarse and true masks, paired: what settings and guard are fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segrefine.batch.worker import Job, read_item
from segrefine.datasets.coco_file import key_of
from segrefine.datasets.items import LabelledMask
from segrefine.errors import MaskError
from segrefine.evaluation.comparison import Comparison, Places, Unread
from segrefine.evaluation.matching import Matched
from segrefine.runtime.files.mask import CoarseMask
from segrefine.runtime.imaging.metrics import iou

LEAST_IMAGES = 10
HELD_OUT = 0.4
"""Share of the images that the result is judged on, and that nothing is fitted to."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One image with its masks.

    Attributes:
        name: the image's, of no other one.
        image: uint8 (H, W, 3) RGB.
        masks: label and coarse mask of each, float32 (H, W) in [0, 1].
        truths: the true mask of each, bool (H, W).
        void: bool (H, W), pixels that do not count.
    """

    name: str
    image: NDArray[np.uint8]
    masks: Sequence[tuple[str, NDArray[np.float32]]]
    truths: Sequence[Mask]
    void: Mask

    def iou(self, number: int, mask: Mask) -> float:
        """Intersection over union of a mask, bool (H, W), with the truth of that number, over the pixels that count."""
        return iou(mask & ~self.void, self.truths[number] & ~self.void)


class LabelledData:
    """A data set as `segrefine batch` takes it, with true masks as `segrefine eval` takes them.

    Args:
        job: names the data set.
        truth: where the true masks lie.

    Raises:
        MaskError: there is no data set, there is no truth, or they do not fit together.
    """

    def __init__(self, job: Job, truth: Path) -> None:
        self._job, self._dataset = job, job.open_dataset()
        self._items = {item.name: item for item in self._dataset.items}
        places = Places(predicted=job.coarse_masks, truth=truth, images=job.images, reading=job.reading)
        self._comparison = Comparison(places)

    def split(self, seed: int) -> tuple[list[str], list[str], list[Unread]]:
        """Names of the images to fit to, of those to judge on, and the images that cannot be used.

        Args:
            seed: of the division.

        Raises:
            MaskError: too few images can be used.
        """
        usable: list[str] = []
        unread: list[Unread] = []
        for name in self._comparison.names:
            try:
                case = self.read(name)
            except Exception as error:  # of one image among many
                unread.append(Unread.of(name, error))
                continue
            if case.masks:
                usable.append(name)
        if len(usable) < LEAST_IMAGES:
            raise _too_few(len(usable), unread)
        order = [usable[place] for place in np.random.default_rng(seed).permutation(len(usable))]
        count = round(HELD_OUT * len(usable))
        return sorted(order[count:]), sorted(order[:count]), unread

    def read(self, name: str) -> Case:
        """The image of that name with its masks; those that have nothing to refine are left out.

        Raises:
            SegrefineError: image or masks cannot be read, or differ in size.
        """
        if name not in self._items:
            raise MaskError(f"there is no image {name!r} in the data set", hint="true masks are matched by name")
        image, reading = read_item(self._job, self._dataset, self._items[name])
        truth, *_ = self._comparison.read(name)
        if truth.size != image.shape[:2]:
            sizes = " and ".join(f"{side[1]}×{side[0]}" for side in (image.shape, truth.size))
            raise MaskError(f"{name}: the image and its true mask are {sizes} pixels", hint="they are of one size")
        coarse: dict[str, tuple[str, NDArray[np.float32]]] = {}
        for each in reading.masks:
            assert not isinstance(each.mask, CoarseMask)  # boxes are not read as masks here
            key = _find_truth(each, truth)
            before = coarse[key][1] if key in coarse else each.mask
            coarse[key] = each.label, np.maximum(before, each.mask)
        known = {key: pair for key, pair in coarse.items() if key not in truth.unusable}
        nothing = np.zeros(truth.size, np.bool_)
        return Case(
            name=name,
            image=image,
            masks=list(known.values()),
            truths=[truth.masks.get(key, nothing) for key in known],
            void=nothing if truth.ignored is None else truth.ignored,
        )


def _find_truth(mask: LabelledMask, truth: Matched) -> str:
    """The key of the true mask that a coarse one belongs to; annotations without own ids share that of their label."""
    annotation = "" if mask.annotation is None else str(key_of(mask.annotation))
    has_truth = annotation in truth.masks and truth.labels.get(annotation) == mask.label
    if annotation and (has_truth or annotation in truth.unusable):
        return annotation
    return "" if set(truth.masks) == {""} else mask.label


def _too_few(count: int, unread: Sequence[Unread]) -> MaskError:
    message = f"{count} images with coarse and true masks can be used; tuning needs {LEAST_IMAGES} or more"
    if unread:
        return MaskError(f"{message}. {len(unread)} cannot be read; {unread[0].name}: {unread[0].message}",
                         hint=unread[0].hint)  # fmt: skip
    return MaskError(message, hint="add images, each with a coarse and a true mask; a few dozen are good")
