"""Panoptic Narrative Grounding: COCO's panoptic PNGs, and captions whose phrases name segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segrefine.datasets.annotation_files import complete_entries
from segrefine.datasets.narratives import (
    HINT,
    find_panoptic,
    find_pictures,
    find_segments,
    is_narratives,
    read_segments,
)
from segrefine.errors import MaskError
from segrefine.runtime.files.image import load_image
from segrefine.runtime.words.context import CaptionedPhrase
from segrefine.storage import read_json, read_json_object
from segrefine.train.annotation_files import scene_of
from segrefine.train.part import Part
from segrefine.train.scenes import Region, TrainingScene, union


class NarrativeScenes:
    """The file `png_coco_SPLIT.json` of Panoptic Narrative Grounding, with COCO's panoptic annotations.

    Args:
        place: the file.
        images: folder of the images; None looks for it.
        part: not used; the file's name says its split.

    Raises:
        MaskError: a file is missing, or holds something else.
    """

    title: ClassVar[str] = "panoptic narratives"

    def __init__(self, place: Path, images: Path | None, part: Part) -> None:
        panoptic = find_panoptic(place)
        self._masks = find_segments(place)
        self._images = images or find_pictures(place)
        content = read_json_object(panoptic, MaskError, hint=HINT)
        narratives = read_json(place, MaskError, hint=HINT)
        if not isinstance(narratives, list):
            raise MaskError(subject=place, expected="a list of narratives", got=type(narratives).__name__, hint=HINT)
        with complete_entries(f"{place} or {panoptic}", HINT):
            self._classes = {each["id"]: str(each["name"]) for each in content["categories"]}
            self._files = {each["id"]: str(each["file_name"]) for each in content.get("images", [])}
            self._annotations = {int(each["image_id"]): each for each in content["annotations"]}
            self._narratives: dict[int, list[dict[str, Any]]] = {}
            for narrative in narratives:
                self._narratives.setdefault(int(narrative["image_id"]), []).append(narrative)
        self._ids = sorted(self._narratives.keys() & self._annotations.keys())
        if not self._ids:
            raise MaskError(f"no narrative of {place} is of an image in {panoptic}", hint=HINT)

    @classmethod
    def detect(cls, place: Path) -> bool:
        """Return whether a file has the name that the narratives have."""
        return is_narratives(place)

    @property
    def names(self) -> Sequence[str]:
        """The images' ids."""
        return [str(number) for number in self._ids]

    def read(self, index: int) -> TrainingScene:
        """Read an image with its segments, and a region for each phrase of its captions."""
        number = self._ids[index]
        annotation = self._annotations[number]
        name = self._files.get(number, Path(annotation["file_name"]).with_suffix(".jpg").name)
        image = load_image(self._images / Path(name).name)
        segments = read_segments(self._masks / annotation["file_name"], image.shape[:2])
        masks = {each["id"]: segments == each["id"] for each in annotation["segments_info"]}
        regions = [
            Region(mask=masks[each["id"]], label=self._classes.get(each["category_id"]), single=not each.get("iscrowd"))
            for each in annotation["segments_info"]
        ]
        for narrative in self._narratives[number]:
            regions += _phrases(narrative, masks, segments.shape)
        return scene_of(image, regions, ignored=segments == 0)


def _phrases(
    narrative: Mapping[str, Any], masks: Mapping[int, NDArray[np.bool_]], size: tuple[int, ...]
) -> list[Region]:
    """A region for each phrase of a narrative that names segments; the phrase knows its caption."""
    regions = []
    caption, place = str(narrative.get("caption", "")), 0
    for segment in narrative.get("segments", []):
        numbers = [int(number) for number in segment.get("segment_ids", [])]
        text = str(segment.get("utterance", "")).strip(" ,.;")
        named = [masks[number] for number in numbers if number in masks]
        start = caption.find(text, place)
        place = start + len(text) if start >= 0 else place
        if text and named:
            phrase = CaptionedPhrase(text, caption, start) if start >= 0 else text
            regions.append(Region(mask=union(named, (size[0], size[1])), phrases=(phrase,)))
    return regions
