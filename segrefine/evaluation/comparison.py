"""The masks of a data set beside the true ones, wherever `segrefine batch` read them from and wrote them to."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from segrefine.batch.journal import read_journal
from segrefine.datasets.coco_file import images_of
from segrefine.datasets.notation import CLASSES, LABELS, Notation, Place, ReadingOptions
from segrefine.datasets.opening import COCO_FILES, IMAGES, LABELS_FOLDER, MASKS, open_compared, place_of_benchmark
from segrefine.datasets.phrase_results import PREDICTIONS
from segrefine.errors import ImageError, MaskError, SegrefineError
from segrefine.evaluation.matching import Matched, by_label, by_number
from segrefine.evaluation.scores import Score, compare
from segrefine.storage import read_json_object

TRUTH = "truth"
RESULT_FILES = (PREDICTIONS, *COCO_FILES)
"""Files that a folder of results has, where one file holds all masks."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Locations of masks: folders of masks or of data sets, output of `segrefine batch`, or COCO JSONs.

    Attributes:
        predicted: the masks that are judged.
        truth: the true ones.
        coarse: those that the predicted ones were made of; None where they are not known.
        labels: a file that says what each mask shows; None for `labels.json` beside one of them.
        images: folder of the images; None for `images` beside one of them.
        reading: how the masks are read, where their files do not say so themselves.
    """

    predicted: Path
    truth: Path
    coarse: Path | None = None
    labels: Path | None = None
    images: Path | None = None
    reading: ReadingOptions = field(default_factory=ReadingOptions)


@dataclass(frozen=True, kw_only=True)
class Unread:
    """An image whose masks cannot be compared, or that cannot be shown.

    Attributes:
        name: the image's.
        error: the kind of the error, by its class.
        message: what the error says.
        hint: what to do about it.
    """

    name: str
    error: str
    message: str
    hint: str | None

    @classmethod
    def of(cls, name: str, error: Exception) -> Unread:
        """Make the entry of an error. Its message does not repeat the name of the image."""
        kind = type(error).__name__
        if not isinstance(error, SegrefineError):
            return cls(name=name, error=kind, message=str(error), hint=None)
        message = error.complaint if error.subject == name else str(error)
        return cls(name=name, error=kind, message=message, hint=error.hint)


class Comparison:
    """Predicted, true and coarse masks, matched by their names.

    Attributes:
        names: of the images that are compared.
        failed: of those that failed in the batch, and have no result.
        extra: of those that have no true mask.
        unusable: a sentence for each annotation that was read so far and has no usable mask, by image.
        truth: where the true masks lie.
        notation: what the true masks were taken for.

    Args:
        places: where all of them lie.

    Raises:
        MaskError: they are in different notations, none is there, one has no partner, or they are the true ones.
    """

    def __init__(self, places: Places) -> None:
        benchmark = place_of_benchmark(places.truth, places.images, places.reading, to_refine=False)
        found_truth = benchmark.masks if benchmark else _find_masks(
            places.truth, (TRUTH, MASKS, LABELS_FOLDER), coco=False
        )  # fmt: skip
        self._places, self.truth = places, found_truth
        coco = self.truth.is_file()
        given = [place for place in (places.predicted, places.coarse) if place]
        found = [_find_masks(place, (MASKS, LABELS_FOLDER), coco=coco) for place in given]
        if os.path.realpath(found[0]) == os.path.realpath(self.truth):
            raise MaskError(f"the masks in {self.truth} are compared with themselves", hint="name the true masks")
        labels = places.labels or (None if coco or benchmark else self._beside(LABELS))
        classes = None if coco or labels or benchmark else self._beside(CLASSES)
        images = places.images or (None if coco else self._beside(IMAGES))
        told = benchmark or Place(
            masks=self.truth, images=images, root=self.truth, labels=labels, classes=classes, to_refine=False,
            options=places.reading,
        )  # fmt: skip
        others = [replace(told, masks=place, root=place, benchmark=None) for place in found]
        stores = open_compared([told, *others])
        self._stores, self._by_instance = stores, _have_same_instances(stores)
        self.notation = stores[0].title
        if stores[0].has_phrases and not self._by_instance:
            raise _other_phrases(found[0], self.truth)
        self._entries = [store.entries for store in stores]
        self._run = read_journal(places.predicted) or read_journal(places.predicted.parent)
        wanted = sorted(self._entries[0])
        failed = {name for name, entry in self._run.items() if entry.status == "failed"} | stores[1].left_out
        self.failed = [name for name in wanted if name in failed]
        self.names = sorted(set(wanted) - set(self.failed))
        self._check_names(found)
        self.extra = sorted(self._entries[1].keys() - set(wanted))
        self._labels: dict[str, str] = read_entries(labels, self.names, str) or {}
        self.unusable: dict[str, list[str]] = {}

    def _check_names(self, found: Sequence[Path]) -> None:
        """Check that there are masks to compare, and that each true one has its partners in the other places.

        Raises:
            MaskError: one of them is missing.
        """
        if not self.names and self.failed:
            first = self._run.get(self.failed[0])
            why = f": {first.message}" if first and first.message else ""
            message = f"all {len(self.failed)} images failed, {self.failed[0]!r} first{why}"
            raise MaskError(message, hint=first.hint if first else None)
        if not self.names:
            raise MaskError(f"there is no mask in {self.truth} to compare with", hint="expected .png or .npy files")
        for place, entries in zip(found, self._entries[1:], strict=True):
            if missing := sorted(set(self.names) - entries.keys()):
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                message = f"{place} has no mask {missing[0]!r}{more}, which {self.truth} has"
                raise MaskError(message, hint="masks are matched by name; --resume continues a stopped batch")

    def score_all(
        self,
        tell: Callable[[str, float], None] | None = None,
        judge: Callable[[str, Sequence[Matched]], None] | None = None,
    ) -> tuple[list[Score], list[Unread]]:
        """The scores of the masks of all images that can be read, and which cannot.

        Args:
            tell: called with each name, and the share of the images that is behind.
            judge: called with each name and its masks: true, predicted and, where they are known, coarse.

        Raises:
            MaskError: none can be read.
        """
        scores: list[Score] = []
        unread: list[Unread] = []
        for number, name in enumerate(self.names):
            if tell:
                tell(name, number / len(self.names))
            try:
                scores += self.score(name, judge)
            except Exception as error:  # of one image among thousands
                unread.append(Unread.of(name, error))
        if len(unread) == len(self.names):
            message = f"none of {len(unread)} images can be compared; {unread[0].name}: {unread[0].message}"
            raise MaskError(message, hint=unread[0].hint)
        return scores, unread

    def score(self, name: str, judge: Callable[[str, Sequence[Matched]], None] | None = None) -> list[Score]:
        """The scores of the masks of an image.

        Args:
            name: the image's.
            judge: called with its name and masks, once they are compared; see `score_all`.

        Raises:
            SegrefineError: they cannot be read, or are of different sizes.
        """
        sides = self.read(name)
        if unusable := [sentence for side in sides for sentence in side.unusable.values()]:
            self.unusable[name] = list(dict.fromkeys(unusable))
        scores = list(compare(name, *sides))
        if judge:
            judge(name, sides)
        return scores

    def read(self, name: str) -> list[Matched]:
        """The masks of an image: true, predicted and, where they are known, coarse.

        Raises:
            SegrefineError: they cannot be read.
        """
        match = by_number if self._by_instance else by_label
        pairs = zip(self._stores, self._entries, strict=True)
        truth, *others = (match(store.read(entries[name])) for store, entries in pairs)
        if name in self._labels:
            truth = replace(truth, labels=dict.fromkeys(truth.masks, self._labels[name]))
        return [truth, *others]

    @property
    def lacks(self) -> Sequence[str]:
        """A sentence for each thing that is missing or faulty in the true data."""
        return self._stores[0].lacks

    @property
    def remarks(self) -> Sequence[str]:
        """A sentence for each kind of thing that is left out by the rules of the official code."""
        return self._stores[0].remarks

    @property
    def truth_notation(self) -> Notation:
        """Return the reader of the true masks."""
        return self._stores[0]

    def find_images(self) -> Path:
        """The folder of the images.

        Raises:
            ImageError: there is none.
        """
        root = self._places.images or (images_of(self.truth) if self.truth.is_file() else self._beside(IMAGES))
        if root is None:
            raise ImageError(f"there is no folder of images next to {self.truth}", hint="name it with --images")
        return root

    def find_image(self, name: str) -> Path:
        """The file of an image.

        Raises:
            ImageError: it is not there.
        """
        root = self.find_images()
        if found := self._stores[0].find_image(self._entries[0][name], root):
            return found
        raise ImageError(f"there is no image {name!r} in {root}", hint="--images names the folder of the images")

    def describe_run(self) -> dict[str, Any]:
        """Describe the batch by its journal: seconds an image, masks that the guard kept; empty without a journal."""
        done = [entry for name in self.names if (entry := self._run.get(name))]
        seconds = [entry.seconds for entry in done if entry.seconds]
        if not done:
            return {}
        return {
            "failed": len(self.failed),
            "kept_coarse": sum(entry.kept_coarse for entry in done),
            "kept_partly": sum(entry.kept_partly for entry in done),
            "seconds_per_image": fmean(seconds) if seconds else None,
        }

    def _beside(self, name: str) -> Path | None:
        """A file or folder of that name in or beside one of the places; None where there is none."""
        places = [place for place in (self.truth, self._places.coarse, self._places.predicted) if place]
        found = (folder / name for place in places for folder in (place, place.parent))
        return next((path for path in found if path.exists()), None)


def _find_masks(place: Path, folders: Sequence[str], *, coco: bool) -> Path:
    """A JSON, that of a batch's output among other `coco`, or the first of some folders below a place, or itself."""
    if place.is_file():
        return place
    if coco and (found := next((place / name for name in RESULT_FILES if (place / name).is_file()), None)):
        return found
    return next((place / folder for folder in folders if (place / folder).is_dir()), place)


def _have_same_instances(stores: Sequence[Notation]) -> bool:
    """Return whether each mask has an id of its own, and masks of one id are of one image and label."""
    truth, *others = (store.identities() for store in stores)
    return truth is not None and all(other is not None and other.items() <= truth.items() for other in others)


def _other_phrases(predicted: Path, truth: Path) -> MaskError:
    message = f"{predicted} holds masks of phrases that {truth} does not have, or has with another text"
    return MaskError(message, hint="compare predictions with the data and the split that they were made for")


def read_entries(file: Path | None, names: Sequence[str], kind: type) -> dict[str, Any] | None:
    """Read the entries of a JSON file for each image's mask; None without a file.

    Args:
        file: the file.
        names: of the images.
        kind: of an entry: `str`, or `list` for a list of texts.

    Raises:
        MaskError: it is no JSON object, says nothing of one of the masks, or something of another kind.
    """
    if file is None:
        return None
    hint = "it holds an entry for each mask, by its name without suffix"
    content = read_json_object(file, MaskError, hint=hint)
    if missing := sorted(set(names) - content.keys()):
        raise MaskError(f"{file} says nothing of {missing[0]!r}", hint=hint)
    expected = "a text" if kind is str else "a list of texts"
    for name in names:
        entry = content[name]
        parts = entry if isinstance(entry, list) else [entry]
        if not isinstance(entry, kind) or not all(isinstance(part, str) for part in parts):
            raise MaskError(subject=file, expected=f"{expected} for {name!r}", got=repr(entry), hint=hint)
    return content
