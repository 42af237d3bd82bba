"""Masks in files below one folder, matched to the images by their paths without suffixes."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from segrefine.datasets.items import Item, Key, MaskResult, PassedOver, Pixels, inside
from segrefine.datasets.layouts import FoundBenchmark
from segrefine.datasets.notation import Notation, Parts
from segrefine.datasets.tree import IMAGE_SUFFIXES, find_image, linked_folders, list_files, list_not_taken
from segrefine.errors import MaskError
from segrefine.runtime.files.image import read_bytes
from segrefine.runtime.files.output import write_whole
from segrefine.storage import output_errors

MASK_SUFFIXES = (".png", ".npy")
_RENAME = "rename all but one, or remove them"


class MaskFiles(Notation):
    """A notation with one file for the masks of each image.

    Attributes:
        suffixes: of its files, in small letters.
    """

    suffixes: ClassVar[tuple[str, ...]] = MASK_SUFFIXES

    @abstractmethod
    def read_files(self, item: Item, files: Mapping[str, Path], image: Pixels | None) -> Parts:
        """Read the masks of an image from its files, by their paths below the folder of masks; see `Notation.read`."""

    @abstractmethod
    def write_file(self, file: str, source: Path, target: Path, results: Mapping[Key, MaskResult]) -> None:
        """Write the refined masks of one file, at least one, to `target`; see `Notation.write`."""

    def keys_of(self, file: str, results: Mapping[Key, MaskResult]) -> Sequence[Key]:
        """The keys of the results that belong to a file: all, where an image has one file."""
        return list(results)

    def stems_of(self, name: str) -> Sequence[str]:
        """Paths below the folder of masks, without suffixes, where the masks of an image may be."""
        return [name]

    def name_of(self, file: str) -> str:
        """The name of the image that a file belongs to; "" for none."""
        return os.path.splitext(file)[0]

    @cached_property
    def items(self) -> list[Item]:
        """The images below the folder of images.

        Raises:
            MaskError: there is none.
        """
        items = list(self.find_items())
        if not items:
            hint = f"of {', '.join(sorted(IMAGE_SUFFIXES))}; folders in it that are links are not entered"
            raise MaskError(f"there is no image in {self._images}", hint=hint)
        return items

    @property
    def _images(self) -> Path:
        assert self.place.images is not None  # whoever refines has found it
        return self.place.images

    def find_items(self) -> Iterator[Item]:
        """Find the images below the folder of images, if any, each with its masks, if any."""
        if self.place.benchmark is not None:
            yield from self._list_split(self.place.benchmark)
            return
        files: dict[str, list[str]] = {}
        for file in list_files(self._images):
            if Path(file).suffix.lower() in IMAGE_SUFFIXES:
                files.setdefault(os.path.splitext(file)[0], []).append(file)
        for name, several in files.items():
            if len(several) == 1:
                yield self._make_item(name, several[0])
                continue
            problem = f"{' and '.join(several)} have one name, so their masks are ambiguous", _RENAME
            for file in several:  # by its whole name, and without masks: a result that is there is of neither
                yield Item(name=file, root=self._images, image=file, problem=problem)

    def _list_split(self, benchmark: FoundBenchmark) -> Iterator[Item]:
        """The images that the split of a benchmark lists."""
        for name, listed in benchmark.listing.items():
            if (self._images / listed.image).is_file():
                yield self._make_item(name, listed.image)
            else:
                problem = f"there is no image {listed.image} in {self._images}", "download the images again"
                yield Item(name=name, root=self._images, image=listed.image, problem=problem)

    def _make_item(self, name: str, image: str) -> Item:
        found = [files for stem in self.stems_of(name) if (files := self._find(stem, self.suffixes))]
        masks, problem = tuple(files[0] for files in found), None
        if twice := next((files for files in found if len(files) > 1), None):
            folder = self.place.masks.name
            masks, problem = (), (f"{folder}/{' and '.join(twice)} have one name, and are both of {image}", _RENAME)
        return Item(name=name, root=self._images, image=image, masks=masks, problem=problem)

    def files_of(self, item: Item) -> list[Path]:
        """The files that an item is read from: the image, its masks, and the JSON of labels."""
        masks = [self.place.masks / file for file in item.masks]
        return [item.root / item.image, *masks, *filter(None, [self.place.labels])]

    def _find(self, stem: str, suffixes: Iterable[str]) -> list[str]:
        folder, found = os.path.join(self.place.masks, ""), list[str]()  # Path takes longer than to look
        for file in (stem + each for suffix in suffixes for each in (suffix, suffix.upper())):
            # where case does not count, two spellings are one file
            if os.path.exists(folder + file) and not any(os.path.samefile(folder + file, folder + f) for f in found):
                found.append(file)
        return found

    @cached_property
    def entries(self) -> dict[str, Item]:
        """The images that have files of masks.

        Raises:
            MaskError: two files have one name.
        """
        files: dict[str, dict[str, str]] = {}
        for file in self._mask_files():
            if name := self.name_of(file):
                stem = os.path.splitext(file)[0]
                if other := files.setdefault(name, {}).get(stem):
                    message = f"{self.place.masks / other} and {file} have one name"
                    raise MaskError(message, hint="keep one file for each mask")
                files[name][stem] = file
        root = self.place.images or self.place.root
        return {name: Item(name=name, root=root, image="", masks=tuple(own.values())) for name, own in files.items()}

    def _mask_files(self) -> Iterator[str]:
        return (file for file in self.place.files if Path(file).suffix.lower() in self.suffixes)

    def find_image(self, item: Item, root: Path) -> Path | None:
        """The file of a compared image below a folder of images; None where it is not there."""
        found = find_image(root, item.name)
        return inside(root, os.path.relpath(found, root)) if found else None

    def pass_over(self) -> PassedOver:
        """List masks that no image has the name of, linked folders of images, and files that are no image."""
        if self.place.benchmark is not None:  # its folders hold other splits too
            return PassedOver()
        names = {os.path.splitext(item.image)[0] for item in self.items}
        folder, images = self.place.masks.name, self._images
        with_masks = self.suffixes if self.place.masks == images else ()
        return PassedOver(
            masks_without_image=[f"{folder}/{file}" for file in self._mask_files() if self.name_of(file) not in names],
            linked_folders=[f"{images.name}/{each}" for each in sorted(linked_folders(images))],
            not_taken=list_not_taken(images, with_masks),
        )

    def read(self, item: Item, image: Pixels | None = None) -> Parts:
        """Read the masks of an image; see `Notation.read`."""
        if not item.masks:
            raise self._no_mask(item)
        root = self.place.masks
        if not self.place.to_refine:  # links to masks elsewhere are compared
            return self.read_files(item, {file: root / file for file in item.masks}, image)
        return self.read_files(item, {file: inside(root, file) for file in item.masks}, image)

    def _no_mask(self, item: Item) -> MaskError:
        folder, expected = self.place.masks.name, " or ".join(self.suffixes)
        others = sorted(IMAGE_SUFFIXES - set(self.suffixes)) if self.place.masks != self.place.images else []
        if other := next((file for stem in self.stems_of(item.name) for file in self._find(stem, others)), None):
            return MaskError(f"{folder}/{other} is no mask that can be read", hint=f"masks are {expected}: convert it")
        hint = f"expected {folder}/{self.pattern_of(item.name)}{expected}"
        return MaskError(f"there is no mask for {item.image}", hint=hint)

    def pattern_of(self, name: str) -> str:
        """Return the path where the mask of an image is expected, without its suffix, for messages."""
        return name

    def is_done(self, item: Item, output: Path) -> bool:
        """Return whether all files of an item are in `output`."""
        return bool(item.masks) and all(self._target_of(output, file).is_file() for file in item.masks)

    def _target_of(self, output: Path, file: str) -> Path:
        if self.place.benchmark is not None:
            return output / "masks" / file
        return output / os.path.relpath(self.place.masks, self.place.root) / file

    def write(self, item: Item, results: Mapping[Key, MaskResult], size: tuple[int, int], output: Path) -> None:
        """Write the files of an image in the notation that they came in; see `Notation.write`."""
        for file in item.masks:
            target, source = self._target_of(output, file), self.place.masks / file
            with output_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            own = {key: results[key] for key in self.keys_of(file, results) if key in results}
            if own:
                self.write_file(file, source, target, own)
            else:
                write_whole(target, read_bytes(source))
