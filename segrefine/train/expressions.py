"""RefCOCO, RefCOCO+ and RefCOCOg: expressions that name one object of a COCO image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from segrefine.datasets.annotation_files import complete_entries, find_nearby
from segrefine.datasets.coco_file import key_of, read_annotation, read_coco
from segrefine.datasets.expressions import NEARBY, is_in_split, read_refs
from segrefine.errors import MaskError
from segrefine.runtime.files.image import load_image
from segrefine.train.annotation_files import scene_of
from segrefine.train.part import Part
from segrefine.train.scenes import Region, TrainingScene

_HINT = (
    "expected refs(unc).p, refs(umd).p, refs(google).p or a JSON of the same list, with instances.json next to it; "
    "--images names the folder of the images"
)


class ExpressionScenes:
    """The file of referring expressions, such as `refcoco/refs(unc).p`; one split of them.

    Args:
        place: the file.
        images: folder of the images; None looks for it.
        part: the split that is read; expressions that name none are read in any.

    Raises:
        MaskError: a file is missing, or holds something else.
    """

    title: ClassVar[str] = "referring expressions"

    def __init__(self, place: Path, images: Path | None, part: Part) -> None:
        self._images = images or find_nearby([place.parent / name for name in NEARBY], "the images", _HINT)
        content = read_coco(place.parent / "instances.json")
        self._entries = {key_of(each["id"]): each for each in content["images"]}
        self._annotations = {key_of(each.get("id")): each for each in content["annotations"]}
        self._sentences: dict[Any, dict[Any, list[str]]] = {}
        with complete_entries(str(place), _HINT):
            for ref in read_refs(place):
                if is_in_split(str(ref.get("split", part.split)), part.split):
                    sentences = [str(each["sent"]) for each in ref["sentences"]]
                    objects = self._sentences.setdefault(key_of(ref["image_id"]), {})
                    objects.setdefault(key_of(ref["ann_id"]), []).extend(sentences)
        self._ids = sorted(self._sentences.keys() & self._entries.keys(), key=str)
        if not self._ids:
            raise MaskError(f"{place} has no expression of its split {part.split!r}", hint=_HINT)

    @classmethod
    def detect(cls, place: Path) -> bool:
        """Return whether a file has the name that the expressions have."""
        return place.is_file() and place.name.startswith("refs(") and place.suffix in (".p", ".json")

    @property
    def names(self) -> Sequence[str]:
        """The images' ids."""
        return [str(number) for number in self._ids]

    def read(self, index: int) -> TrainingScene:
        """Read an image with the objects that expressions name."""
        number = self._ids[index]
        image = load_image(self._images / Path(str(self._entries[number]["file_name"])).name)
        regions = []
        for annotation_id, sentences in self._sentences[number].items():
            annotation = self._annotations.get(annotation_id)
            if annotation is None:
                raise MaskError(f"instances.json has no annotation {annotation_id}", hint=_HINT)
            mask = read_annotation(annotation, (image.shape[0], image.shape[1]))
            regions.append(Region(mask=mask, phrases=tuple(sentences), single=True))
        return scene_of(image, regions)
