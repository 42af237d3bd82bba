"""Predicted masks of phrases: a JSON with the run lengths of each phrase's mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from segrefine.datasets.coco_file import key_of
from segrefine.datasets.items import Item, Key, MaskResult, Pixels, check_size
from segrefine.datasets.notation import Notation, Parts, Place
from segrefine.datasets.polygons import Mask
from segrefine.errors import MaskError
from segrefine.runtime.files.rle import decode_rle, encode_rle
from segrefine.storage import read_json_object

PREDICTIONS = "predictions.json"
_HEAD = 256
_HINT = (
    'expected {"phrases": [{"image": NAME, "phrase_id": ID, "phrase": TEXT, "segmentation": RLE}, …]}, as '
    "segrefine bench writes it"
)


def entry_of(image: str, number: int | str, text: str, mask: Mask) -> dict[str, Any]:
    """Return the JSON entry of one phrase."""
    return {"image": image, "phrase_id": number, "phrase": text, "segmentation": encode_rle(mask)}


class PhraseResults(Notation):
    """Masks of phrases, to be compared with true ones or refined in their place."""

    title = "masks of phrases"
    described = "predicted masks of phrases"
    names_classes = False
    has_phrases = True
    is_unmistakable = True

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether a file begins as the JSON of predictions does."""
        if not place.masks.is_file() or place.masks.suffix != ".json":
            return False
        with place.masks.open("rb") as stream:
            start = stream.read(_HEAD).decode("utf-8", "ignore").lstrip("\ufeff \t\r\n{")
        return start.startswith(('"phrases"', '"phrases_of"'))

    @property
    def items(self) -> Sequence[Item]:
        """None can be refined alone: the file does not say where the images are."""
        hint = "segrefine batch DATA OUTPUT --coarse FILE refines them, where DATA is the data set of the phrases"
        raise MaskError("it holds masks of phrases without their images", subject=self.place.masks, hint=hint)

    @cached_property
    def entries(self) -> Mapping[str, Item]:
        """The images by name.

        Raises:
            MaskError: the file holds something else, or two masks of one phrase.
        """
        content = read_json_object(self.place.masks, MaskError, hint=_HINT).get("phrases")
        if not isinstance(content, list):
            raise MaskError("it has no list of phrases", subject=self.place.masks, hint=_HINT)
        images: dict[str, dict[str | None, dict[str, Any]]] = {}
        for place, entry in enumerate(content):
            self._check(entry, place)
            own, number = images.setdefault(entry["image"], {}), key_of(entry["phrase_id"])
            if number in own:
                message = f"image {entry['image']} has two masks of phrase {number}"
                raise MaskError(message, subject=self.place.masks, hint="keep one of them")
            own[number] = entry
        root = self.place.root
        return {
            name: Item(name=name, root=root, image="", masks=tuple(own.values())) for name, own in images.items()
        }  # fmt: skip

    def _check(self, entry: Any, place: int) -> None:
        texts = isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in ("image", "phrase"))
        if not texts or key_of(entry.get("phrase_id")) is None or not isinstance(entry.get("segmentation"), dict):
            raise MaskError(subject=f"{self.place.masks}: phrases[{place}]", expected="image, phrase_id, phrase and "
                            "segmentation", got=f"{entry!r:.60}", hint=_HINT)  # fmt: skip

    def read(self, item: Item, image: Pixels | None = None) -> Parts:
        """Read the masks of an image's phrases."""
        masks: dict[Key, Mask] = {}
        size: tuple[int, int] | None = None if image is None else (image.shape[0], image.shape[1])
        for entry in item.masks:
            mask = decode_rle(entry["segmentation"])
            size = size or (mask.shape[0], mask.shape[1])
            check_size(mask.shape, size, f"{item.name}, phrase {entry['phrase_id']}")
            masks[entry["phrase_id"]] = mask
        assert size is not None  # an image is listed for its phrases
        return Parts(
            size=size,
            masks=masks,
            labels={entry["phrase_id"]: entry["phrase"] for entry in item.masks},
            numbers={entry["phrase_id"]: entry["phrase_id"] for entry in item.masks},
        )

    def read_item(self, name: str) -> Parts:
        """Read the masks of the phrases of an image.

        Raises:
            MaskError: the file has none.
        """
        if name not in self.entries:
            raise MaskError(f"it has no masks of {name}", subject=self.place.masks, hint="predict the whole split")
        return self.read(self.entries[name])

    def write(self, item: Item, results: Mapping[Key, MaskResult], size: tuple[int, int], output: Path) -> None:
        """Refuse: the data set of the phrases writes them."""
        raise MaskError("it is no data set of its own", subject=self.place.masks, hint=_HINT)

    def is_done(self, item: Item, output: Path) -> bool:
        """Never: nothing is written."""
        return False

    def identities(self) -> Mapping[str, tuple[str, str]]:
        """Image and text of each phrase by its number."""
        return {
            str(key_of(entry["phrase_id"])): (name, entry["phrase"])
            for name, item in self.entries.items()
            for entry in item.masks
        }
