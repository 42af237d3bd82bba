"""A plain folder: `images/`, `masks/`, and `phrases.json`, which says what each mask shows in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from segrefine.datasets.items import check_size, inside
from segrefine.errors import MaskError
from segrefine.runtime.files.image import load_image
from segrefine.runtime.files.mask import read_mask
from segrefine.storage import read_json_object
from segrefine.train.annotation_files import scene_of
from segrefine.train.part import Part
from segrefine.train.scenes import Region, TrainingScene

PHRASES = "phrases.json"
_HINT = 'such as {"photo.jpg": {"the red car": "photo-car.png", "all trees": "photo-trees.png"}}'


class PhraseFolder:
    """A folder with `images/`, `masks/` and `phrases.json`: image → phrase → mask.

    Args:
        place: the folder.
        images: folder of the images; None for `images` in it.
        part: not used; the folder has no splits.

    Raises:
        MaskError: `phrases.json` does not say what it should.
    """

    title: ClassVar[str] = "phrases with masks"

    def __init__(self, place: Path, images: Path | None, part: Part) -> None:
        self._images, self._masks = images or place / "images", place / "masks"
        content = read_json_object(place / PHRASES, MaskError, hint=_HINT)
        self._phrases: dict[str, dict[str, str]] = {}
        for name, named in content.items():
            texts = isinstance(named, dict) and all(isinstance(file, str) for file in named.values())
            if not texts or not named:
                raise MaskError(f"{place / PHRASES}: {name} has no phrases with their masks", hint=_HINT)
            self._phrases[name] = named
        if not self._phrases:
            raise MaskError(f"{place / PHRASES} names no image", hint=_HINT)

    @classmethod
    def detect(cls, place: Path) -> bool:
        """Return whether a folder has `phrases.json`."""
        return (place / PHRASES).is_file()

    @property
    def names(self) -> Sequence[str]:
        """The images' file names."""
        return list(self._phrases)

    def read(self, index: int) -> TrainingScene:
        """Read an image with a region for each mask."""
        name = self.names[index]
        image = load_image(inside(self._images, name))
        by_file: dict[str, list[str]] = {}
        for phrase, file in self._phrases[name].items():
            by_file.setdefault(file, []).append(phrase)
        regions = []
        for file, phrases in by_file.items():
            mask = read_mask(inside(self._masks, file)) > 0.5
            check_size(mask.shape, (image.shape[0], image.shape[1]), file)
            regions.append(Region(mask=mask, phrases=tuple(phrases)))
        return scene_of(image, regions)
