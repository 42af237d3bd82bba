"""Photographs and cut-outs on disk, so that training composes scenes from memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures

from training.photos.words import NAMES, VOID, number_of

MARGIN = 1.25
"""The shorter side of a stored photograph, in sides of a scene: crops stay sharp."""
MIN_SHARE, MIN_CUT = 0.02, 20
"""A cut-out covers this share of its photograph, and its longer side has at least so many pixels."""

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Photo:
    """One annotated photograph.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        labels: uint8 (H, W); class numbers, 0 background, `VOID` unknown.
        parts: class number and mask (H, W) of each object that can be cut out.
    """

    image: Image
    labels: Image
    parts: list[tuple[int, NDArray[np.bool_]]]


def read_voc(folder: Path, split: str) -> Iterator[Photo]:
    """The photographs of `split` ("train" or "val"); connected regions are the parts."""
    names = json.loads((folder / "classes.json").read_text())
    table = np.full(256, VOID, np.uint8)
    table[: len(names)] = [0, *(number_of(name) for name in names[1:])]
    for name in (folder / f"{split}.txt").read_text().split():
        labels = table[_read_palette(folder / f"masks/{name}.png")]
        yield Photo(_read_image(folder / f"images/{name}.jpg"), labels, _regions(labels))


def read_cats(folder: Path) -> Iterator[Photo]:
    """Cats outdoors, one mask per cat."""
    cat = number_of("cat")
    images = {file.stem: file for file in (folder / "images").iterdir()}
    for file in sorted((folder / "masks").iterdir()):
        numbers = _read_palette(file)
        labels = np.where((numbers > 0) & (numbers < VOID), cat, numbers).astype(np.uint8)
        parts = [(cat, numbers == number) for number in np.unique(numbers) if 0 < number < VOID]
        yield Photo(_read_image(images[file.stem]), labels, parts)


def read_coco(folder: Path) -> Iterator[Photo]:
    """COCO photographs, one mask per instance."""
    data = json.loads((folder / "instances.json").read_text())
    numbers = {each["id"]: number_of(each["name"]) for each in data["categories"]}
    for entry in data["images"]:
        image = _read_image(folder / "images" / entry["file_name"])
        labels, parts = np.zeros(image.shape[:2], np.uint8), []
        found = [each for each in data["annotations"] if each["image_id"] == entry["id"]]
        for each in sorted(found, key=lambda annotation: -annotation["area"]):
            mask = np.zeros_like(labels)
            polygons = each["segmentation"] if isinstance(each["segmentation"], list) else []
            corners = [np.round(np.reshape(polygon, (-1, 2))).astype(np.int32) for polygon in polygons]
            cv2.fillPoly(mask, corners, 1)
            number = VOID if each["iscrowd"] else numbers[each["category_id"]]
            labels[mask > 0] = number
            if number != VOID:
                parts.append((number, mask > 0))
        yield Photo(image, labels, parts)


@dataclass(frozen=True)
class Ragged:
    """Arrays of different heights and widths in one file.

    Attributes:
        pixels: uint8 (pixels, channels), row after row, array after array.
        table: int64 (n, 4): first pixel, height, width, class number (0 for photographs).
    """

    pixels: Image
    table: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of arrays."""
        return len(self.table)

    def __getitem__(self, index: int) -> Image:
        """One array, uint8 (h, w, channels)."""
        first, height, width, _ = self.table[index]
        return self.pixels[first : first + height * width].reshape(height, width, -1)

    @classmethod
    def of(cls, arrays: list[Image], numbers: list[int]) -> Ragged:
        """The given arrays, each with its class number."""
        sizes = [each.shape[0] * each.shape[1] for each in arrays]
        first = np.cumsum([0, *sizes[:-1]])
        rows = [(f, *a.shape[:2], n) for f, a, n in zip(first, arrays, numbers, strict=True)]
        return cls(np.concatenate([a.reshape(-1, a.shape[2]) for a in arrays]), np.array(rows, np.int64))


@dataclass(frozen=True)
class PhotoPool:
    """The photographs of one split.

    Attributes:
        photos: RGB and label, uint8 (h, w, 4).
        cuts: RGB and coverage, uint8 (h, w, 4).
        holders: for each class number the photographs that show it.
        cutters: for each class number its cut-outs.
    """

    photos: Ragged
    cuts: Ragged
    holders: dict[int, NDArray[np.int64]]
    cutters: dict[int, NDArray[np.int64]]

    @classmethod
    def load(cls, folder: Path) -> PhotoPool:
        """Read what `build_pool` has written."""
        photos, cuts = (
            Ragged(np.load(folder / f"{name}.npy", mmap_mode="r"), np.load(folder / f"{table}.npy"))
            for name, table in (("photos", "photo-table"), ("cuts", "cut-table"))
        )
        shows = np.load(folder / "shows.npy")
        numbers = range(1, len(NAMES) + 1)
        holders = {n: np.flatnonzero(shows[:, n] >= 0.01) for n in numbers}
        cutters = {n: np.flatnonzero(cuts.table[:, 3] == n) for n in numbers}
        return cls(photos, cuts, holders, cutters)


def build_pool(source: Path, folder: Path, *, split: str, side: int) -> PhotoPool:
    """The pool of a split in `folder`, built on the first call.

    Args:
        source: the folder of photographs.
        folder: where the pool is kept.
        split: "train" (VOC's training part, cats and COCO) or "val" (VOC's validation part).
        side: of the scenes that it is for, in pixels.
    """
    if not (folder / "shows.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        photos, cuts, numbers, shows = [], [], [], []
        for photo in _read_split(source, split):
            photos.append(_shrink(photo, round(MARGIN * side)))
            shows.append(np.bincount(photos[-1][..., 3].ravel(), minlength=256) / photos[-1][..., 3].size)
            for number, part in _cut_out(photo, side):
                cuts.append(part)
                numbers.append(number)
        stored, cut = Ragged.of(photos, [0] * len(photos)), Ragged.of(cuts, numbers)
        for name, array in (("photos", stored.pixels), ("photo-table", stored.table), ("cuts", cut.pixels),
                            ("cut-table", cut.table), ("shows", np.stack(shows))):  # fmt: skip
            np.save(folder / f"{name}.npy", array)
    return PhotoPool.load(folder)


def _read_split(source: Path, split: str) -> Iterator[Photo]:
    yield from read_voc(source / "voc", split)
    if split == "train":
        yield from read_cats(source / "cats")
        yield from read_coco(source / "coco")


def _shrink(photo: Photo, side: int) -> Image:
    """RGB and labels, uint8 (h, w, 4), with a shorter side of at most `side` pixels."""
    height, width = photo.labels.shape
    scale = min(1.0, side / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = cv2.resize(photo.image, size, interpolation=cv2.INTER_AREA)
    return np.dstack([image, cv2.resize(photo.labels, size, interpolation=cv2.INTER_NEAREST)]).astype(np.uint8)


def _cut_out(photo: Photo, side: int) -> Iterator[tuple[int, Image]]:
    """Class number and RGBA cut-out of each part that is large enough, with a longer side of at most `side` pixels."""
    for number, mask in photo.parts:
        if mask.mean() < MIN_SHARE:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        cover = mask[box].astype(np.uint8) * 255
        scale = min(1.0, side / max(cover.shape))
        size = (max(1, round(cover.shape[1] * scale)), max(1, round(cover.shape[0] * scale)))
        if max(size) < MIN_CUT or min(size) < 8:
            continue
        whole = np.dstack([photo.image[box], cover])
        yield number, np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)


def _regions(labels: Image) -> list[tuple[int, NDArray[np.bool_]]]:
    parts = []
    for number in np.unique(labels):
        if 0 < number < VOID:
            count, numbers = cv2.connectedComponents((labels == number).astype(np.uint8))
            parts += [(int(number), numbers == part) for part in range(1, count)]
    return parts


def _read_image(file: Path) -> Image:
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"expected a photograph at {file}")
    return np.ascontiguousarray(image[..., ::-1], np.uint8)


def _read_palette(file: Path) -> Image:
    with Pictures.open(file) as picture:
        return np.array(picture, np.uint8)
