"""Small data sets that lie on disk as the archives and converters of benchmarks leave them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segrefine.datasets.layouts import CITYSCAPES_IDS, COCO_STUFF_IDS
from tests.datasets.trial import CAR, FOX, SIZE, save

NAMES = ("one", "two")
PHOTO = np.full((*SIZE, 3), 90, np.uint8)
SKY = np.zeros(SIZE, bool)
SKY[:3] = True


def indices(first: int, second: int, *, nothing: int = 0, void: int | None = 255) -> np.ndarray:
    """A label map with one class at FOX, another at CAR, and a column of no class."""
    found = np.full(SIZE, nothing, np.uint8)
    found[FOX], found[CAR] = first, second
    if void is not None:
        found[:, -1] = void
    return found


def write_listed(root: Path, masks: str, lists: str, first: int, second: int, nothing: int = 0) -> Path:
    """VOC's layout: folders by kind, and text files of splits; `train` has an image that `val` has not."""
    for name in (*NAMES, "other"):
        save(root / "JPEGImages" / f"{name}.jpg", PHOTO)
        save(root / masks / f"{name}.png", indices(first, second, nothing=nothing))
    for split, names in {"val": NAMES, "train": ["other"]}.items():
        (root / lists).mkdir(parents=True, exist_ok=True)
        (root / lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def write_voc(root: Path) -> Path:
    return write_listed(root, "SegmentationClass", "ImageSets/Segmentation", 8, 7)


def write_context(root: Path) -> Path:
    return write_listed(root, "SegmentationClassContext", "ImageSets/SegmentationContext", 15, 14)


def write_folders(
    root: Path, images: str, masks: str, image_suffix: str, mask_suffix: str, label_map: np.ndarray, stem: str = ""
) -> Path:
    """A layout whose splits are folders; `other` is of another split."""
    for split, names in (("{}".format, NAMES),):
        for name in names:
            save(root / split(images) / f"{stem}{name}{image_suffix}", PHOTO)
            save(root / split(masks) / f"{stem}{name}{mask_suffix}", label_map)
    return root


def write_coco(root: Path, suffix: str) -> Path:
    """COCO-Stuff's folders: cat and car, raw or by one of its converters; the sky is stuff."""
    raw_of = {place: raw for raw, place in COCO_STUFF_IDS.items()}
    cat, car, sky = {"_instanceTrainIds.png": (16, 3, 0), "_labelTrainIds.png": (15, 2, 145)}.get(
        suffix, (raw_of[15], raw_of[2], raw_of[145])
    )
    label_map = indices(cat, car, nothing=255 if suffix != "_instanceTrainIds.png" else 0)
    label_map[SKY] = sky
    return write_folders(root, "images/val2017", "annotations/val2017", ".jpg", suffix, label_map)


def write_ade20k(root: Path) -> Path:
    label_map = indices(13, 21, void=0)  # person, car
    return write_folders(root, "images/validation", "annotations/validation", ".jpg", ".png", label_map)


def write_cityscapes(root: Path, *, raw: bool) -> Path:
    raw_of = {place: value for value, place in CITYSCAPES_IDS.items()}
    person, car = (raw_of[11], raw_of[13]) if raw else (11, 13)
    label_map = indices(person, car, nothing=3 if raw else 255, void=1 if raw else 255)
    suffix = "_gtFine_labelIds.png" if raw else "_gtFine_labelTrainIds.png"
    return write_folders(
        root, "leftImg8bit/val/bern", "gtFine/val/bern", "_leftImg8bit.png", suffix, label_map, stem="bern_"
    )


def write_davis(root: Path, *, paths: bool = False) -> Path:
    """Two sequences: one object in white, and two by number."""
    white, both = np.where(FOX, 255, 0).astype(np.uint8), indices(1, 2, void=None)
    for name, numbers in (("bear", white), ("bmx-trees", both)):
        save(root / "JPEGImages/480p" / name / "00000.jpg", PHOTO)
        save(root / "Annotations/480p" / name / "00000.png", numbers)
    lines = [
        f"/JPEGImages/480p/{n}/00000.jpg /Annotations/480p/{n}/00000.png" if paths else n for n in ("bear", "bmx-trees")
    ]
    year = root / "ImageSets" / ("2016" if paths else "2017")
    year.mkdir(parents=True)
    (year / "val.txt").write_text("\n".join(lines))
    return root


def write_big(root: Path) -> Path:
    for name in ("2007_000033_aeroplane", "0001"):
        save(root / f"{name}_im.jpg", PHOTO)
        save(root / f"{name}_gt.png", np.where(FOX, 255, 0).astype(np.uint8))
        save(root / f"{name}_seg.png", np.where(FOX | CAR, 255, 0).astype(np.uint8))
    return root


SEGMENTS = {1: FOX & ~SKY, 70_000: CAR, 9: SKY}
"""Panoptic segments by id: a fox (a thing), a car (a thing), the sky (stuff)."""
CATEGORIES = [
    {"id": 17, "name": "cat", "isthing": 1}, {"id": 3, "name": "car", "isthing": 1},
    {"id": 187, "name": "sky", "isthing": 0},
]  # fmt: skip


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]


def narrative(image: int, *utterances: tuple[str, Sequence[int]], caption: str | None = None) -> dict[str, Any]:
    segments = [{"utterance": text, "segment_ids": list(ids), "noun": bool(ids)} for text, ids in utterances]
    return {
        "image_id": str(image), "segments": segments,
        "caption": caption or " ".join(text for text, _ in utterances),
    }  # fmt: skip


def write_narratives(root: Path, narratives: Sequence[Mapping[str, Any]], split: str = "val2017") -> Path:
    """The layout of Panoptic Narrative Grounding, with the three segments in images 1 and 2."""
    colours = np.zeros((*SIZE, 3), np.uint8)
    for number, mask in SEGMENTS.items():
        colours[mask] = number % 256, number // 256 % 256, number // 65536
    annotations, category_of = root / "annotations", {1: 17, 70_000: 3, 9: 187}
    listed = []
    for image in (1, 2):
        save(root / "images" / split / f"{image:012d}.jpg", PHOTO)
        save(annotations / "panoptic_segmentation" / split / f"{image:012d}.png", colours)
        infos = [
            {"id": number, "category_id": category_of[number], "bbox": box_of(mask), "iscrowd": 0}
            for number, mask in SEGMENTS.items()
        ]
        listed.append({"image_id": image, "file_name": f"{image:012d}.png", "segments_info": infos})
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)]
    content = {"images": images, "annotations": listed, "categories": CATEGORIES}
    (annotations / f"panoptic_{split}.json").write_text(json.dumps(content))
    (annotations / f"png_coco_{split}.json").write_text(json.dumps(list(narratives)))
    return root


def polygon_of(mask: np.ndarray) -> list[list[float]]:
    left, top, wide, high = box_of(mask)
    return [[left, top, left + wide, top, left + wide, top + high, left, top + high]]


def write_expressions(root: Path, refs: Sequence[Mapping[str, Any]], file: str = "refs(unc).p") -> Path:
    """The layout of RefCOCO: annotations 5 (the fox), 6 (the car) and 7 (a crowd) of images 1 and 2."""
    folder = root / "refcoco"
    folder.mkdir(parents=True)
    annotations = [
        {"id": 5, "image_id": 1, "category_id": 17, "iscrowd": 0, "segmentation": polygon_of(FOX)},
        {"id": 6, "image_id": 1, "category_id": 3, "iscrowd": 0, "segmentation": polygon_of(CAR)},
        {"id": 7, "image_id": 1, "category_id": 3, "iscrowd": 1, "segmentation": polygon_of(SKY)},
        {"id": 8, "image_id": 2, "category_id": 17, "iscrowd": 0, "segmentation": polygon_of(FOX)},
    ]
    images = [
        {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)
    ]
    categories = [{"id": 17, "name": "cat"}, {"id": 3, "name": "car"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    if file.endswith(".json"):
        (folder / file).write_text(json.dumps(list(refs)))
    else:
        (folder / file).write_bytes(pickle.dumps(list(refs), protocol=0))
    for image in images:
        save(root / "images/mscoco/images/train2014" / str(image["file_name"]), PHOTO)
    return folder


def ref(number: int, image: int, annotation: Any, split: str, *sentences: tuple[int, str]) -> dict[str, Any]:
    spoken = [{"sent_id": i, "sent": text.lower(), "raw": text, "tokens": text.split()} for i, text in sentences]
    return {
        "ref_id": number, "image_id": image, "ann_id": annotation, "category_id": 17, "split": split,
        "sentences": spoken, "sent_ids": [i for i, _ in sentences], "file_name": f"COCO_{number}.jpg",
    }  # fmt: skip
