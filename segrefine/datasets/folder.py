"""Folders of images and masks: a mask or a label map for each image, or a folder of maps for each class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.datasets.items import Item, Kind, LabelledMask, PassedOver, Pixels, Reading, check_size, inside
from segrefine.errors import MaskError
from segrefine.runtime.mask import check_mask, check_range, has_border, read_mask, read_stored
from segrefine.runtime.output import save_label_map, save_mask, save_probability
from segrefine.runtime.refinement import Refinement
from segrefine.storage import output_errors, read_json

IMAGES, MASKS, LABELS, CLASSES = "images", "masks", "labels.json", "classes.json"
IMAGE_SUFFIXES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm",
}  # fmt: skip
"""Of the formats that `segrefine.runtime.image` reads."""
MASK_SUFFIXES = (".png", ".npy")
IGNORED = 255
_LARGEST = 65535
_RENAME = "rename all but one, or remove them"
_SPELLED = (*MASK_SUFFIXES, *(suffix.upper() for suffix in MASK_SUFFIXES))
_BACKGROUND = {"background", "bg", "void", "none", "unlabeled", "unlabelled", "ignore", "other"}
_PARTS = {"train", "training", "trainval", "val", "valid", "validation", "test", "testing"}
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table",
    "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip


class FolderDataset:
    """A folder with `images/` and `masks/` below it, matched by their paths without suffixes.

    Kinds, found out by what lies there:

    - "mask": `labels.json` says of each name what its mask shows;
    - "label map": `classes.json` lists the names of index 0, 1, …, or has them by index; 0 is the background, and
      255 of no class;
    - "class folders": `masks/CLASS/NAME.png` or `.npy`, hard or soft, as many classes as there are. Folders that
      `images/` has as well, such as `train` and `val`, are no classes but parts of the data set;
    - else label maps with the classes of PASCAL VOC.

    Images and masks are listed when the items are first asked for: a process that is handed its items lists nothing.

    Attributes:
        kind: one of these.

    Args:
        folder: the folder.

    Raises:
        MaskError: it has no folder of images or of masks, its JSON does not say what it should or has a class at index
            0, or some folders of masks may be classes and others may not.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in (IMAGES, MASKS):
            if not (folder / name).is_dir():
                hint = "expected DIR/images, DIR/masks, and DIR/labels.json or classes.json; or a COCO JSON"
                raise MaskError(f"there is no folder {folder / name}", hint=hint)
        self._labels = _read_json(folder / LABELS) if (folder / LABELS).is_file() else None
        self._classes, self._assumes_voc = read_classes(folder / CLASSES), not (folder / CLASSES).is_file()
        with os.scandir(folder / MASKS) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries]
        subfolders = sorted(name for name, is_folder in found if is_folder and not name.startswith("."))
        has_files = any(Path(name).suffix.lower() in MASK_SUFFIXES for name, _ in found)
        self.kind: Kind = "label map"
        if self._labels is not None:
            self.kind = "mask"
        elif not has_files and not (folder / CLASSES).is_file() and are_classes(subfolders, folder / IMAGES):
            self.kind = "class folders"
        elif (first := self._classes.get(0)) and first.strip(" _").casefold() not in _BACKGROUND:
            message = f"{folder / CLASSES} has a class at index 0, {first!r}, which is the background here"
            hint = f'number the classes from 1, in label maps too; or if 0 shows nothing, call it "{VOC_CLASSES[0]}"'
            raise MaskError(message, hint=hint)
        self._class_folders = subfolders if self.kind == "class folders" else []

    @cached_property
    def items(self) -> list[Item]:
        """Its images.

        Raises:
            MaskError: there is none.
        """
        items, folder = list(self._list_items()), self._folder / IMAGES
        if not items:
            hint = f"of {', '.join(sorted(IMAGE_SUFFIXES))}; folders in it that are links are not entered"
            raise MaskError(f"there is no image in {folder}", hint=hint)
        return items

    def _list_items(self) -> Iterator[Item]:
        root, files = self._folder / IMAGES, dict[str, list[str]]()
        for file in sorted(walk(self._folder / IMAGES)):
            if Path(file).suffix.lower() in IMAGE_SUFFIXES:
                files.setdefault(os.path.splitext(file)[0], []).append(file)
        for name, several in files.items():
            if len(several) == 1:
                yield self._make_item(name, several[0])
                continue
            problem = f"{' and '.join(several)} have one name, so it cannot be told whose the masks are", _RENAME
            for file in several:  # by its whole name, and without masks: a result that is there is of neither
                yield Item(name=file, root=root, image=file, problem=problem)

    def _make_item(self, name: str, image: str) -> Item:
        found = [files for stem in self._stems_of(name) if (files := self._find(stem, _SPELLED))]
        masks, problem = tuple(files[0] for files in found), None
        if twice := next((files for files in found if len(files) > 1), None):
            masks, problem = (), (f"{MASKS}/{' and '.join(twice)} have one name, and are both of {image}", _RENAME)
        return Item(name=name, root=self._folder / IMAGES, image=image, masks=masks, problem=problem)

    def _stems_of(self, name: str) -> list[str]:
        """Paths of an item's masks, relative to the folder of masks, without their suffixes."""
        return [f"{each}/{name}" for each in self._class_folders] or [name]

    def _find(self, stem: str, suffixes: Iterable[str]) -> list[str]:
        folder, found = os.path.join(self._folder, MASKS, ""), list[str]()  # Path takes longer than to look
        for file in (stem + suffix for suffix in suffixes):
            # where case does not count, two spellings are one file
            if os.path.exists(folder + file) and not any(os.path.samefile(folder + file, folder + f) for f in found):
                found.append(file)
        return found

    def pass_over(self) -> PassedOver:
        """Lists masks that no image has the name of, and linked folders below `images/`."""
        names = {os.path.splitext(item.image)[0] for item in self.items}
        masks = (file for file in sorted(walk(self._folder / MASKS)) if Path(file).suffix.lower() in MASK_SUFFIXES)
        named = ((file, file.partition("/")[2] if self._class_folders else file) for file in masks)
        return PassedOver(
            masks_without_image=[f"{MASKS}/{file}" for file, name in named if os.path.splitext(name)[0] not in names],
            linked_folders=[f"{IMAGES}/{folder}" for folder in sorted(_linked_folders(self._folder / IMAGES))],
            not_taken=list_not_taken(self._folder / IMAGES),
        )

    def read(self, item: Item, image: Pixels) -> Reading:
        """Read the masks of an item; a class has nothing to refine if it is nowhere in the image, or everywhere."""
        if not item.masks:
            raise self._no_mask(item)
        size = image.shape[0], image.shape[1]
        files = [(file, inside(self._folder / MASKS, file)) for file in item.masks]
        if self.kind == "label map":
            masks = self._read_label_map(files[0][1], size)
            return Reading(masks=masks, left=int(not masks))
        masks = []
        for file, path in files:
            probability = read_mask(path)
            check_size(probability.shape, size, file)
            if self.kind == "class folders":
                check_range(probability)
                if not has_border(probability > 0.5):
                    continue
            check_mask(probability, size)
            label = self._label_of(item, file)
            masks.append(LabelledMask(key=label, label=label, mask=probability))
        return Reading(masks=masks, left=len(files) - len(masks))

    def _no_mask(self, item: Item) -> MaskError:
        suffixes = [spelled for suffix in IMAGE_SUFFIXES for spelled in (suffix, suffix.upper())]
        if other := next((file for stem in self._stems_of(item.name) for file in self._find(stem, suffixes)), None):
            return MaskError(f"{MASKS}/{other} is no mask that can be read", hint="masks are .png or .npy: convert it")
        where = f"{MASKS}/CLASS/{item.name}" if self._class_folders else f"{MASKS}/{item.name}"
        return MaskError(f"there is no mask for {item.image}", hint=f"expected {where}.png or .npy")

    def _label_of(self, item: Item, file: str) -> str:
        if self._labels is None:
            return file.partition("/")[0]
        label = self._labels.get(item.name)
        if not isinstance(label, str):
            message = f"{LABELS} does not say what the mask of {item.name} shows"
            raise MaskError(message, hint='such as {"photo": "fox"}')
        return label

    def _read_label_map(self, path: Path, size: tuple[int, int]) -> list[LabelledMask]:
        stored = read_stored(path)
        indices = _indices_of(stored, path)
        check_size(indices.shape, size, path.name)
        if self._assumes_voc and _looks_binary(stored):
            message = f"{path.name} holds only black and white, or 0 and 1, and may be the mask of one object"
            raise MaskError(message, hint=f"{LABELS} says what masks show; {CLASSES} names the indices of label maps")
        masks = split_label_map(indices, self._classes, path.name)
        return [
            LabelledMask(key=label, label=label, mask=mask.astype(np.float32))
            for label, mask in masks
            if has_border(mask)
        ]

    def is_done(self, item: Item, output: Path) -> bool:
        """Whether all masks of an item are in `output`."""
        return bool(item.masks) and all(_result_of(output, file).is_file() for file in item.masks)

    def write(self, item: Item, results: Mapping[str | int, Refinement], size: tuple[int, int], output: Path) -> None:
        """Write the masks of an item in the notation that they came in; what was not refined stays as it is."""
        for file in item.masks:
            target, source = _result_of(output, file), self._folder / MASKS / file
            with output_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            if self.kind == "label map":
                self._write_label_map(source, target, results)
                continue
            result = results.get(self._label_of(item, file))
            if _is_soft(source):
                save_probability(target, result.probability if result else read_mask(source))
            else:
                save_mask(target, result.mask if result else read_mask(source) > 0.5)

    def _write_label_map(self, source: Path, target: Path, results: Mapping[str | int, Refinement]) -> None:
        """What is of no class stays so where no label claims it."""
        numbers: dict[str | int, int] = {name: index for index, name in self._classes.items()}
        stored = read_stored(source)
        labels = _indices_of(stored, source)
        if results:
            labels[(labels != IGNORED) | (IGNORED in self._classes)] = 0
        for label, result in results.items():
            labels[result.mask] = numbers[label]
        save_label_map(target, labels.astype(stored.dtype) if isinstance(stored, np.ndarray) else labels)

    def finish(self, output: Path) -> None:
        """Nothing belongs to all results together."""


def read_label_map(path: Path) -> NDArray[np.integer[Any]]:
    """The indices of a label map, whole numbers (H, W), of a palette or grey PNG or of a `.npy`.

    Raises:
        ImageError: it cannot be read.
        MaskError: it holds no indices.
    """
    return _indices_of(read_stored(path), path)


def _indices_of(stored: Image.Image | NDArray[Any], path: Path) -> NDArray[np.integer[Any]]:
    """The indices that a file holds, a copy of their own; see `read_label_map`."""
    if isinstance(stored, Image.Image):
        if stored.mode not in ("P", "L", "I", "I;16", "1"):
            message = f"{path}: expected a palette or grey label map, got colours ({stored.mode})"
            raise MaskError(message, hint="save the indices as a palette PNG")
        stored = np.asarray(stored).astype(np.int32)
    if stored.ndim != 2 or stored.dtype.kind not in "iub":
        message = f"{path}: expected a label map of whole numbers (H, W), got {stored.dtype} {stored.shape}"
        hint = f"save the indices as a palette PNG; of a mask of one object, {LABELS} says what it shows"
        raise MaskError(message, hint=hint)
    if stored.size and not 0 <= stored.min() <= stored.max() <= _LARGEST:
        message = f"{path}: expected indices from 0 to {_LARGEST}, got {stored.min()} to {stored.max()}"
        raise MaskError(message, hint=f"{IGNORED} is of no class")
    return stored.astype(np.int32)


def _looks_binary(stored: Image.Image | NDArray[Any]) -> bool:
    """Whether what a file holds may be the mask of one object.

    That is black and white, or without a palette nothing but 0, 1 and 255. Nothing tells such a mask from a label map;
    a palette does, unless it is in black and white too.
    """
    values_of_masks = [0, 1, IGNORED]
    if isinstance(stored, Image.Image) and stored.mode == "P":
        stored, values_of_masks = stored.convert("L"), [0, IGNORED]
    values = np.asarray(stored)
    return values.dtype == np.bool_ or bool(values.any() and np.isin(values, values_of_masks).all())


def are_classes(subfolders: Sequence[str], images: Path | None) -> bool:
    """Whether the folders that masks lie in are classes, and no parts of the data set such as `train` and `val`.

    Parts are those that the images lie in as well; where no images are known, the names of all must be those of parts.

    Args:
        subfolders: their names.
        images: folder of the images; None where there is none.

    Raises:
        MaskError: some are parts, and some may be classes.
    """
    if images is None:
        return not {name.casefold() for name in subfolders} <= _PARTS
    parts = [name for name in subfolders if (images / name).is_dir()]
    if parts and (rest := sorted(set(subfolders) - set(parts))):
        message = f"{MASKS}/{parts[0]} is a part of the data set, as {IMAGES}/{parts[0]} is, but {MASKS}/{rest[0]} has"
        hint = f"{LABELS} or {CLASSES} says that none is a class; else give classes and folders of images other names"
        raise MaskError(f"{message} no such partner, and may be a class", hint=hint)
    return bool(subfolders) and not parts


def split_label_map(
    indices: NDArray[np.integer[Any]], classes: Mapping[int, str], name: str
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The label and the mask, bool (H, W), of each class in a label map but the background and what is of no class.

    Args:
        indices: whole numbers (H, W).
        classes: names by index.
        name: of the file, for errors.

    Raises:
        MaskError: an index has no name.
    """
    for index in np.unique(indices).tolist():
        if index == 0 or (index == IGNORED and index not in classes):
            continue
        if index not in classes:
            raise MaskError(f"{name} holds index {index}, which has no name", hint=f"name it in {CLASSES}")
        yield classes[index], indices == index


def walk(root: Path) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, but hidden ones; folders that are links are not entered.

    Hidden are names with a dot in front, as `._photo.png` and `.ipynb_checkpoints` have, which other programs leave.
    """
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        for file in files:
            if not file.startswith("."):
                yield os.path.relpath(os.path.join(folder, file), root)


def list_not_taken(root: Path) -> dict[str, list[str]]:
    """Paths of the files below a folder of images that are no image, relative to it, by the reason."""
    found: dict[str, list[str]] = {}
    for folder, _, files in os.walk(root):
        for file in files:
            path, suffix = os.path.relpath(os.path.join(folder, file), root), os.path.splitext(file)[1].lower()
            if any(part.startswith(".") for part in path.split(os.sep)):
                reason = "hidden, with a dot in front of a name"
            elif suffix in IMAGE_SUFFIXES:
                continue
            else:
                reason = f"{suffix} is not a format that is read" if suffix else "without a suffix"
            found.setdefault(reason, []).append(path)
    return {reason: sorted(paths) for reason, paths in sorted(found.items())}


def _linked_folders(root: Path) -> Iterator[str]:
    """Paths of the folders that `walk` does not enter, relative to the root; not those in hidden ones."""
    for folder, below, _ in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        paths = (os.path.join(folder, name) for name in below)
        yield from (os.path.relpath(path, root) for path in paths if os.path.islink(path))


def _result_of(output: Path, file: str) -> Path:
    return output / MASKS / file


def _is_soft(path: Path) -> bool:
    if path.suffix.lower() == ".npy":
        return True
    with Image.open(path) as image:
        return image.mode.startswith("I")


def _read_json(file: Path) -> dict[str, Any]:
    content = read_json(file, MaskError, hint="write it again")
    if isinstance(content, list):
        content = {str(index): name for index, name in enumerate(content)}
    if not isinstance(content, dict):
        raise MaskError(f"{file} is no JSON object", hint='such as {"photo": "fox"}')
    return content


def read_classes(file: Path) -> Mapping[int, str]:
    """Names by index of a `classes.json`; those of PASCAL VOC where there is no such file. Index 0 may be null.

    Raises:
        MaskError: it holds something else.
    """
    if not file.is_file():
        return dict(enumerate(VOC_CLASSES))
    content = _read_json(file)
    if content.get("0", "") is None:
        del content["0"]
    if not all(index.isdecimal() and isinstance(name, str) for index, name in content.items()):
        raise MaskError(f"{file} holds something else than names by index", hint='such as ["background", "fox"]')
    names = {int(index): name for index, name in content.items()}
    if len(set(names.values())) < len(names):
        raise MaskError(f"{file} has one name twice", hint="give every class its own name")
    return names
