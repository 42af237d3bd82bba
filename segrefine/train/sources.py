"""Sources of training scenes. A new notation is a class with a reader's two methods and a line of `SOURCES`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from segrefine.datasets.expressions import find_expressions
from segrefine.datasets.items import check_size, read_image
from segrefine.datasets.layouts import find_benchmark
from segrefine.datasets.narratives import find_narratives
from segrefine.datasets.notation import ReadingOptions
from segrefine.datasets.object_sets import find_objects
from segrefine.datasets.opening import open_data_set
from segrefine.errors import MaskError, SettingsError
from segrefine.runtime.files.mask import CoarseMask
from segrefine.storage import read_json
from segrefine.train.annotation_files import scene_of
from segrefine.train.expressions import ExpressionScenes
from segrefine.train.narratives import NarrativeScenes
from segrefine.train.part import Part
from segrefine.train.phrase_folder import PhraseFolder
from segrefine.train.scenes import Region, TrainingScene


class Source(Protocol):
    """Images with named regions.

    Attributes:
        names: a name for each image.
    """

    title: ClassVar[str]

    def __init__(self, place: Path, images: Path | None, part: Part) -> None: ...

    @classmethod
    def detect(cls, place: Path) -> bool:
        """Return whether the data at a place is of this kind."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """A name for each image."""
        ...

    def read(self, index: int) -> TrainingScene:
        """Read an image with its regions.

        Raises:
            SegrefineError: the image or its masks cannot be read, or do not fit each other.
        """
        ...


class LabelledMasks:
    """Any data set that `segrefine batch` reads: label maps, class folders, masks with labels, COCO, benchmarks.

    A benchmark is read by its split and its class list.
    """

    title: ClassVar[str] = "labelled masks"

    def __init__(self, place: Path, images: Path | None, part: Part) -> None:
        is_benchmark = find_expressions(place) or find_objects(place, part.split, to_refine=True)
        is_benchmark = is_benchmark or find_benchmark(place, part.split, part.classes)
        options = ReadingOptions(split=part.split if is_benchmark else None, classes=part.classes)
        self._data_set = open_data_set(place, images, options)
        self._items = list(self._data_set.items)

    @classmethod
    def detect(cls, place: Path) -> bool:
        """Always: its own reader says what is wrong."""
        return True

    @property
    def names(self) -> Sequence[str]:
        """The items' names."""
        return [item.name for item in self._items]

    def read(self, index: int) -> TrainingScene:
        """Read an image; see `Source`."""
        item = self._items[index]
        image = read_image(item)
        parts = self._data_set.read(item, image)
        regions, single = [], bool(parts.numbers)  # only instances have ids of their own
        for key, mask in parts.masks.items():
            if key not in parts.labels:
                raise MaskError(f"the mask of {item.name} has no label", hint="name its object in labels.json")
            values = np.asarray(mask.probability if isinstance(mask, CoarseMask) else mask, np.float32)
            check_size(values.shape, (image.shape[0], image.shape[1]), f"{item.name}, mask {key}")
            text = str(parts.labels[key])
            if self._data_set.has_phrases:
                regions.append(Region(mask=values > 0.5, phrases=(text,)))
            else:
                regions.append(Region(mask=values > 0.5, label=text, single=single))
        return scene_of(image, regions, parts.ignored)


SOURCES: tuple[type[Source], ...] = (NarrativeScenes, ExpressionScenes, PhraseFolder, LabelledMasks)
"""The readers; the first that knows the data takes it."""


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """One data set of a run.

    Attributes:
        place: its folder or file.
        weight: how often it is drawn, relative to the others.
        images: folder of its images, where the data does not say so.
        part: split and class list of a benchmark.
    """

    place: Path
    weight: float = 1.0
    images: Path | None = None
    part: Part = Part()

    @classmethod
    def parse(cls, text: str, images: Path | None = None) -> SourceSpec:
        """The data set that a text such as `cats` or `cats=0.5` names.

        Raises:
            SettingsError: the weight is no number above 0.
        """
        place, sign, weight = text.rpartition("=")
        if not sign or Path(text).exists():
            return cls(place=Path(text), images=images)
        try:
            value = float(weight)
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf"):
            raise SettingsError(expected="PATH or PATH=WEIGHT with a weight above 0", got=repr(text))
        return cls(place=Path(place), weight=value, images=images)

    def open(self) -> Source:
        """The data set.

        Raises:
            MaskError: there is none that can be read, or it is captions without masks.
        """
        if not self.place.exists():
            raise MaskError(f"there is no data set {self.place}", hint="give a folder, or a JSON of COCO")
        try:
            place = self.place
            if place.is_dir():  # a folder of narratives or expressions is read as its file is, with the captions
                place = find_narratives(place, self.part.split) or find_expressions(place) or place
            return next(source for source in SOURCES if source.detect(place))(place, self.images, self.part)
        except MaskError as error:
            if holds_captions(self.place):
                hint = "give COCO's instances, or Panoptic Narrative Grounding, whose captions name segments"
                raise MaskError(f"{self.place} holds captions without masks", hint=hint) from error
            raise


def holds_captions(place: Path) -> bool:
    """Return whether a file is a JSON of captions, such as COCO's: they do not say which pixels a word means."""
    if not place.is_file() or place.suffix != ".json":
        return False
    content = read_json(place, MaskError, hint="")
    annotations = content.get("annotations") if isinstance(content, dict) else None
    return isinstance(annotations, list) and any(isinstance(each, dict) and "caption" in each for each in annotations)
