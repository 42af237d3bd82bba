"""Notations of masks: the contract by which batch, eval and training read data sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from segrefine.datasets.cam_scores import BackgroundRule
from segrefine.datasets.items import (
    Floats,
    Item,
    Key,
    LabelledMask,
    MaskResult,
    PassedOver,
    Pixels,
    Reading,
    check_size,
    inside,
)
from segrefine.datasets.layouts import FoundBenchmark
from segrefine.datasets.polygons import Mask
from segrefine.datasets.tree import list_files
from segrefine.errors import MaskError
from segrefine.runtime.files.mask import CoarseMask, check_range, has_border

LABELS, CLASSES = "labels.json", "classes.json"
AnyMask = Mask | Floats | CoarseMask


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """Options for reading a data set whose files leave something open.

    Attributes:
        classes: name of a class list that ships, or path of a file with names by index; None for the data set's own.
        boxes: whether an annotation that has a box and no mask is refined from its box.
        background: how high the background scores among class activation maps: a constant, as "0.15", or a power, as
            "power:4" for (1 - highest activation)^4; None for what the method that writes them uses.
        key_offset: what is added to the keys of class activation maps to get indices of the class list; None for the
            list's first index.
        maps: entry that holds the class activation maps; None for the first that is known.
        listing: path of the COCO JSON that lists the images and categories of a list of results.
        zero_shot: whether there are no masks: phrases, or the names of the classes, say what to look for.
        split: part of a benchmark that is read, or a file that lists its images; None for the validation part.
        coarse: folder or file of the masks that are refined in place of a benchmark's own.
        label: what every mask of one object shows, where no file says it of that mask.

    Raises:
        SettingsError: the background rule is none.
    """

    classes: str | None = None
    boxes: bool = False
    background: str | None = None
    key_offset: int | None = None
    maps: str | None = None
    listing: str | None = None
    zero_shot: bool = False
    split: str | None = None
    coarse: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.background is not None:
            BackgroundRule.parse(self.background)

    @property
    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None and value is not False}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Location of a data set.

    Attributes:
        masks: folder of the masks, or a file that holds all of them.
        images: folder of the images; None where it is not known.
        root: folder of the data set; the output has the masks at the same place below its own folder.
        labels: a JSON that says what each mask shows; None where there is none.
        classes: a JSON with class names by index; None where there is none.
        to_refine: whether the masks are read to be refined, and not only to be compared.
        options: what the user says of it.
        benchmark: the benchmark whose images these are; None where they are of no benchmark of label maps.
    """

    masks: Path
    images: Path | None
    root: Path
    labels: Path | None = None
    classes: Path | None = None
    to_refine: bool = True
    options: ReadingOptions = field(default_factory=ReadingOptions)
    benchmark: FoundBenchmark | None = None

    @property
    def has_classes(self) -> bool:
        """Return whether somebody names the indices of label maps."""
        return self.classes is not None or self.options.classes is not None

    @cached_property
    def files(self) -> Sequence[str]:
        """Sorted paths of all files below the folder of masks, relative to it; listed once."""
        return list_files(self.masks)


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """All masks of one image.

    Attributes:
        size: (H, W) of the image.
        masks: bool or float32 (H, W), foreground or its probability in [0, 1]; or masks of which only a part is in
            doubt. By a key each: the class, "" for a mask alone, the place of an annotation among those of its image.
        labels: what the masks show, by the same keys; without those of which nobody says.
        prompts: what the model is asked for, by label; a label that is not here is its own prompt.
        numbers: ids that the data set gives the masks, by the same keys.
        ignored: bool (H, W), pixels that are of no class and do not count; None for none.
        background: name of the class of all other pixels; None where that is no class.
        unusable: a sentence for each annotation without a usable mask, by its key.
        groups: names of the groups that a mask counts in, such as "things", by the same keys.
    """

    size: tuple[int, int]
    masks: Mapping[Key, AnyMask]
    labels: Mapping[Key, str] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[Key, int | str] = field(default_factory=dict)
    ignored: Mask | None = None
    background: str | None = None
    unusable: Mapping[Key, str] = field(default_factory=dict)
    groups: Mapping[Key, Sequence[str]] = field(default_factory=dict)


class Notation(ABC):
    """One way to store the masks of a data set. A new one is a class in its own file and a line of `NOTATIONS`.

    Each process that works on a data set makes its own object. Only the process that hands out the items lists them.

    Attributes:
        title: what a run notes the notation as.
        described: what reports call it.
        names_classes: whether the masks of an image are told apart by their class.
        has_phrases: whether each mask is that of a phrase, with an id of its own.
        is_unmistakable: whether the files alone say that it is this notation.
        options: names of the reading options that it takes.

    Args:
        place: where the data set lies.
    """

    title: ClassVar[str]
    described: ClassVar[str]
    names_classes: ClassVar[bool] = True
    has_phrases: ClassVar[bool] = False
    is_unmistakable: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, place: Place) -> None:
        self.place = place

    @classmethod
    @abstractmethod
    def detect(cls, place: Place) -> bool:
        """Return whether the masks at a place are in this notation."""

    @property
    @abstractmethod
    def items(self) -> Sequence[Item]:
        """The images with their masks, in a fixed order: what a batch refines.

        Raises:
            MaskError: there is none, or they cannot be listed.
        """

    @property
    @abstractmethod
    def entries(self) -> Mapping[str, Item]:
        """The images that have masks, by name, whether or not the images are there: what is compared.

        Raises:
            MaskError: they cannot be listed.
        """

    @abstractmethod
    def read(self, item: Item, image: Pixels | None = None) -> Parts:
        """Read the masks of an image.

        Args:
            item: the image.
            image: its pixels, uint8 (H, W, 3); None where the masks are only compared.

        Raises:
            SegrefineError: the masks cannot be read, or do not fit the image.
        """

    @abstractmethod
    def write(self, item: Item, results: Mapping[Key, MaskResult], size: tuple[int, int], output: Path) -> None:
        """Write the masks of an image in this notation. Each file appears whole, the last one at the end.

        Args:
            item: the image.
            results: what refining gave, by the keys of the masks. A mask without a result stays as it is.
            size: (H, W) of the image.
            output: folder of the results.

        Raises:
            OutputError: there is no place.
        """

    @abstractmethod
    def is_done(self, item: Item, output: Path) -> bool:
        """Return whether all results of an item are in the folder `output`."""

    def finish(self, output: Path) -> None:  # noqa: B027
        """Write what belongs to all results together; most notations have nothing of the kind."""

    def pass_over(self) -> PassedOver:
        """List what is not refined though it is there."""
        return PassedOver()

    def find_image(self, item: Item, root: Path) -> Path | None:
        """The file of a compared image below a folder of images; None where it is not there."""
        path = inside(root, item.image)
        return path if item.image and path.is_file() else None

    def identities(self) -> Mapping[str, tuple[str, str]] | None:
        """Image and label of each mask by an id that is its own in the whole data set; None where there are none."""
        return None

    @property
    def benchmarks(self) -> Sequence[str]:
        """Names of the published benchmarks of phrases or objects that this may be; none for other masks."""
        return ()

    def list_without_coarse(self) -> Sequence[str]:
        """Names of the images for which there is no mask to refine, though it should be there."""
        return [item.name for item in self.items if not item.masks and not item.problem]

    @property
    def described_whole(self) -> str:
        """Return the name for reports, with the benchmarks that the data may be."""
        return f"{self.described} ({' or '.join(self.benchmarks)})" if self.benchmarks else self.described

    @property
    def lacks(self) -> Sequence[str]:
        """A sentence for each thing that is missing or faulty in the data set."""
        return ()

    @property
    def remarks(self) -> Sequence[str]:
        """A sentence for each kind of thing that is left out by the rules of the official code."""
        return ()

    @property
    def left_out(self) -> frozenset[str]:
        """Images that failed in the batch that wrote this data set."""
        return frozenset()


def select_masks(parts: Parts, item: Item) -> Reading:
    """The masks of an image that can be refined.

    Raises:
        MaskError: nobody says what a mask shows, it has another size than the image, or is no probability.
    """
    masks: list[LabelledMask] = []
    left = 0
    for key, mask in parts.masks.items():
        if key not in parts.labels:
            raise MaskError(f"the mask of {item.name} has no label", hint=f"name its object in {LABELS}")
        probability = mask.probability if isinstance(mask, CoarseMask) else mask
        check_size(probability.shape, parts.size, f"the mask of {parts.labels[key]!r}")
        check_range(probability.astype(np.float32, copy=False))
        if not has_border(probability > 0.5):
            left += 1
            continue
        label = parts.prompts.get(parts.labels[key], parts.labels[key])
        coarse = mask if isinstance(mask, CoarseMask) else mask.astype(np.float32)
        masks.append(LabelledMask(key=key, label=label, mask=coarse, annotation=parts.numbers.get(key)))
    if not masks and not left and not parts.unusable and item.masks:
        left = 1  # a label map without a class is one mask that has nothing to refine
    return Reading(masks=masks, left=left, unusable=list(parts.unusable.values()))
