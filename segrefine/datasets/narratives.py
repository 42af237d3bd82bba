"""Panoptic Narrative Grounding: captions whose phrases name segments of COCO's panoptic annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.datasets.annotation_files import complete_entries, find_nearby, find_twice
from segrefine.datasets.items import Item, Key, check_size
from segrefine.datasets.notation import Place
from segrefine.datasets.phrases import Phrase, PhraseData, show
from segrefine.datasets.polygons import Mask
from segrefine.datasets.word_count import count_utterance, count_words
from segrefine.errors import MaskError
from segrefine.storage import read_json, read_json_object

PREFIX = "png_coco_"
HINT = (
    "expected annotations/png_coco_SPLIT.json with panoptic_SPLIT.json and the folder panoptic_segmentation/SPLIT (or "
    "panoptic_SPLIT) next to it, and the images in images/SPLIT; --images names another folder"
)


class Narratives(PhraseData):
    """The file `png_coco_SPLIT.json`. Each narrative is one item, and several may be of one image.

    As in the official code, a narrative is left out where its utterances and its caption differ in their number of
    words, or where no phrase names a segment. A phrase of several segments is a plural, and its mask is their union. It
    is a thing or stuff by its last segment. Where masks are compared, a segment is looked up by its box, as the
    official code does it: of two segments with one box it takes the first.
    """

    title = "narratives"
    described = "Panoptic Narrative Grounding"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._left_out: Counter[str] = Counter()
        self._lacking: list[str] = []
        self._twice = 0

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether a file has the name that narratives have."""
        return is_narratives(place.masks)

    @property
    def benchmarks(self) -> Sequence[str]:
        """The one that this is."""
        return ("png",)

    @property
    def _split(self) -> str:
        return split_of(self.place.masks)

    @cached_property
    def _panoptic(self) -> Path:
        return find_panoptic(self.place.masks)

    @cached_property
    def _folder(self) -> Path:
        return find_segments(self.place.masks)

    @cached_property
    def _images(self) -> Path:
        return self.place.images or find_pictures(self.place.masks)

    def list_items(self) -> Iterator[Item]:
        """The narratives, each with its phrases."""
        file = self.place.masks
        content, narratives = read_json_object(self._panoptic, MaskError, hint=HINT), read_json(
            file, MaskError, hint=HINT
        )  # fmt: skip
        if not isinstance(narratives, list):
            raise MaskError(subject=file, expected="a list of narratives", got=type(narratives).__name__, hint=HINT)
        times: Counter[int] = Counter()
        with complete_entries(f"{file} or {self._panoptic}", HINT):
            is_thing = {each["id"]: bool(each["isthing"]) for each in content["categories"]}
            files = {each["id"]: each for each in content.get("images", [])}
            annotations = {int(each["image_id"]): each for each in content["annotations"]}
            self._twice = len(find_twice(int(each["image_id"]) for each in content["annotations"]))
            self._twice += sum(
                bool(find_twice(int(info["id"]) for info in each["segments_info"])) for each in annotations.values()
            )
            for narrative in narratives:
                number = int(narrative["image_id"])
                times[number] += 1
                name = f"{number:012d}" + (f"-{times[number]}" if times[number] > 1 else "")
                if number not in annotations:
                    self._lacking.append(name)
                elif phrases := self._list_phrases(name, narrative, annotations[number], is_thing):
                    yield self._make_item(name, phrases, annotations[number], files.get(number, {}))

    def _make_item(
        self, name: str, phrases: Sequence[Phrase], annotation: Mapping[str, Any], listed: Mapping[str, Any]
    ) -> Item:
        picture = Path(str(listed.get("file_name") or Path(annotation["file_name"]).with_suffix(".jpg"))).name
        problem = None
        if self.place.to_refine and not (self._images / picture).is_file():
            problem = f"there is no image {picture} in {self._images}", "download the images of the split again"
        return Item(
            name=name,
            root=self._images if self.place.to_refine else self.place.root,
            image=picture,
            masks=tuple(phrases),
            problem=problem,
            stated=(listed.get("height"), listed.get("width")),
        )

    def _list_phrases(
        self, name: str, narrative: Mapping[str, Any], annotation: Mapping[str, Any], is_thing: Mapping[int, bool]
    ) -> list[Phrase]:
        """The phrases of a narrative; none where the official code leaves it out."""
        spoken = [str(each["utterance"]).strip() for each in narrative["segments"]]
        if sum(map(count_utterance, spoken)) != count_words(str(narrative["caption"]).strip()):
            self._left_out["utterances differ from the caption"] += 1
            return []
        segments = {int(each["id"]): each for each in annotation["segments_info"]}
        phrases: list[Phrase] = []
        caption, place = str(narrative["caption"]), 0
        for text, segment in zip(spoken, narrative["segments"], strict=True):
            start = caption.find(text, place)
            place = start + len(text) if start >= 0 else place
            numbers = [int(each) for each in segment["segment_ids"]]
            if not numbers or not segment.get("noun", True):
                continue
            if not count_utterance(text):
                self._left_out["a phrase without words"] += 1
                continue
            infos = [segments.get(each) for each in numbers]
            target, groups, problem = self._resolve(infos, annotation, is_thing)
            phrases.append(
                Phrase(
                    number=f"{name}/{len(phrases)}", text=text, target=(annotation["file_name"], target),
                    groups=groups, problem=problem, caption=(caption, start) if start >= 0 else None,
                )
            )  # fmt: skip
        if not phrases:
            self._left_out["no phrase names a segment"] += 1
        return phrases

    def _resolve(
        self, infos: Sequence[Mapping[str, Any] | None], annotation: Mapping[str, Any], is_thing: Mapping[int, bool]
    ) -> tuple[tuple[int, ...], tuple[str, ...], str | None]:
        """The ids of a phrase's segments, its groups, and what is wrong with it.

        Args:
            infos: what the panoptic JSON says of each segment; None for one that it lacks.
            annotation: of the image.
            is_thing: whether a category is of things.
        """
        known = [each for each in infos if each is not None]
        problem = None
        if len(known) < len(infos):
            problem = f"{len(infos) - len(known)} of its segments are not in {self._panoptic.name}"
        if not self.place.to_refine:
            first_of_box = {tuple(each["bbox"]): each for each in reversed(annotation["segments_info"])}
            known = [first_of_box[tuple(each["bbox"])] for each in known]
        groups = ["plurals" if len(infos) > 1 else "singulars"]
        groups += ["things" if is_thing[known[-1]["category_id"]] else "stuff"] if known else []
        return tuple(int(each["id"]) for each in known), tuple(groups), problem

    def read_masks(self, item: Item, size: tuple[int, int] | None) -> tuple[tuple[int, int], dict[Key, Mask | str]]:
        """The union of each phrase's segments, of the panoptic PNG."""
        file = self._folder / Path(item.masks[0].target[0]).name
        segments = read_segments(file, size)
        masks: dict[Key, Mask | str] = {
            each.number: np.isin(segments, each.target[1]) for each in item.masks if not each.problem
        }
        return (segments.shape[0], segments.shape[1]), masks

    @property
    def lacks(self) -> Sequence[str]:
        """List missing and duplicate entries."""
        items, sentences = self.items, list[str]()
        if self._lacking:
            sentences.append(f"{len(self._lacking)} narratives are of images that {self._panoptic.name} lacks: "
                             f"{show(self._lacking)}")  # fmt: skip
        if missing := [item.name for item in items if item.problem]:
            sentences.append(f"{len(missing)} of {len(items)} images are missing: {show(missing)}")
        pictures = list(dict.fromkeys(Path(item.masks[0].target[0]).name for item in items))
        if gone := [name for name in pictures if not (self._folder / name).is_file()]:
            sentences.append(
                f"{len(gone)} of {len(pictures)} panoptic PNGs are missing in {self._folder}: {show(gone)}"
            )
        if unknown := [phrase for item in items for phrase in item.masks if phrase.problem]:
            sentences.append(f"{len(unknown)} phrases name segments that {self._panoptic.name} lacks")
        if self._twice:
            sentences.append(
                f"{self._twice} images of {self._panoptic.name} have two entries of one id; the last counts"
            )
        return sentences

    @property
    def remarks(self) -> Sequence[str]:
        """List the entries that are left out, as in the official code."""
        _ = self.items
        return [f"{count} left out as in the official code: {reason}" for reason, count in self._left_out.items()]


def is_narratives(file: Path) -> bool:
    """Return whether a file has the name that narratives have."""
    return file.is_file() and file.name.startswith(PREFIX) and file.suffix == ".json"


def split_of(file: Path) -> str:
    """The split that the name of a file of narratives says."""
    return file.stem.removeprefix(PREFIX)


def find_panoptic(file: Path) -> Path:
    """The panoptic JSON near a file of narratives.

    Raises:
        MaskError: there is none.
    """
    parent, name = file.parent, f"panoptic_{split_of(file)}.json"
    return find_nearby([parent / name, parent / "panoptic_segmentation" / name, parent.parent / name], name, HINT)


def find_segments(file: Path) -> Path:
    """The folder of the panoptic PNGs near a file of narratives.

    Raises:
        MaskError: there is none.
    """
    parent, name = file.parent, f"panoptic_{split_of(file)}"
    inside = parent / "panoptic_segmentation"
    places = [inside / split_of(file), parent / name, parent.parent / name, inside / name]
    return find_nearby(places, f"the folder {name}", HINT)


def find_pictures(file: Path) -> Path:
    """The folder of the images near a file of narratives.

    Raises:
        MaskError: there is none.
    """
    above, split = file.parent.parent, split_of(file)
    places = [above / "images" / split, file.parent / split, above / split, file.parent / "images", above / "images"]
    return find_nearby(places, "the images", HINT)


def read_segments(file: Path, size: Sequence[int] | None) -> NDArray[np.int64]:
    """The segment ids (H, W) of a panoptic PNG: red + 256 green + 256² blue.

    Args:
        file: the PNG.
        size: (H, W) that it must have; None for any.

    Raises:
        MaskError: it cannot be read, or has another size than its image.
    """
    try:
        with Image.open(file) as opened:
            colours = np.asarray(opened.convert("RGB"), np.int64)
    except (OSError, ValueError) as error:
        raise MaskError(f"it cannot be read: {error}", subject=file, hint=HINT) from error
    if size is not None:
        check_size(colours.shape[:2], (size[0], size[1]), file.name)
    found: NDArray[np.int64] = colours @ np.array([1, 256, 65536])
    return found


def find_narratives(source: Path, split: str | None) -> Path | None:
    """The narratives of a split in a folder, or the file itself; None where there are none.

    Raises:
        MaskError: the folder has narratives, and none of this split; or the file is of another one.
    """
    if source.is_file():
        if not is_narratives(source):
            return None
        own = split_of(source)
        if split not in (None, own, own.removesuffix("2017")):
            raise MaskError(
                f"it has no split {split!r}", subject=source, hint=f"leave --split out: the file is of {own}"
            )
        return source
    folders = [source, source / "annotations"]
    files = {
        file.stem.removeprefix(PREFIX): file
        for folder in folders
        for file in sorted(folder.glob(f"{PREFIX}*.json"))
        if not file.stem.endswith("_dataloader")
    }
    if not files:
        return None
    wanted = split or "val2017"
    found = files.get(wanted) or files.get(f"{wanted}2017")
    if found is None and split is None and len(files) == 1:
        [found] = files.values()
    if found is None:
        raise MaskError(f"it has no split {wanted!r}", subject=source, hint=f"--split takes {', '.join(files)}")
    return found
