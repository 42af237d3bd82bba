"""A data set in the format of Panoptic Narrative Grounding, made of photographs with COCO's instances.

Each image has one narrative: a phrase for each class, of one object or of all of them, and a last one for the rest.
Objects do not overlap: where they do, the smaller one is in front.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrefine.datasets.coco_file import read_annotation
from segrefine.errors import MaskError

SPLIT = "val2017"
REST = 200
_LEAST_SHARE = 0.005
"""Objects that cover less of an image are left out."""
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def write_narrative_set(source: Path, target: Path, images: int) -> int:
    """Write the data set, and give how many narratives it has.

    Args:
        source: folder with `images/` and `instances.json`.
        target: folder of the data set.
        images: how many images it has, evenly spaced.
    """
    content = json.loads((source / "instances.json").read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    annotations = target / "annotations"
    folders = target / "images" / SPLIT, annotations / "panoptic_segmentation" / SPLIT
    for folder in folders:
        folder.mkdir(parents=True)
    listed: list[dict[str, Any]] = []
    narratives: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    chosen = content["images"][:: max(1, len(content["images"]) // images)][:images]
    for picture in chosen:
        size = picture["height"], picture["width"]
        segments = _segments(by_image.get(picture["id"], []), size)
        infos = [_describe(number, mask, category) for number, mask, category in segments]
        name = f"{picture['id']:012d}"
        Image.fromarray(_colour(segments, size)).save(folders[1] / f"{name}.png")
        shutil.copyfile(source / "images" / picture["file_name"], folders[0] / f"{name}.jpg")
        pictures.append({"id": picture["id"], "file_name": f"{name}.jpg", "height": size[0], "width": size[1]})
        listed.append({"image_id": picture["id"], "file_name": f"{name}.png", "segments_info": infos})
        narratives.append(_narrate(picture["id"], infos, names))
    categories = [{"id": number, "name": name, "isthing": 1} for number, name in names.items()]
    categories.append({"id": REST, "name": "rest", "isthing": 0})
    panoptic = {"images": pictures, "annotations": listed, "categories": categories}
    (annotations / f"panoptic_{SPLIT}.json").write_text(json.dumps(panoptic))
    (annotations / f"png_coco_{SPLIT}.json").write_text(json.dumps(narratives))
    return len(narratives)


Segment = tuple[int, NDArray[np.bool_], int]
"""Id, pixels, category."""


def _segments(annotations: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> list[Segment]:
    found = []
    for annotation in annotations:
        try:
            found.append((read_annotation(annotation, size), int(annotation["category_id"])))
        except MaskError:
            continue
    free = np.ones(size, np.bool_)
    segments: list[Segment] = []
    for mask, category in sorted(found, key=lambda pair: int(pair[0].sum())):
        own = mask & free
        free &= ~mask
        if own.mean() >= _LEAST_SHARE:
            segments.append((1000 * category + len(segments) + 1, own, category))
        else:
            free |= own
    return [*segments, (7, free, REST)]


def _describe(number: int, mask: NDArray[np.bool_], category: int) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    return {"id": number, "category_id": category, "bbox": box, "iscrowd": 0, "area": int(mask.sum())}


def _colour(segments: Sequence[Segment], size: tuple[int, int]) -> NDArray[np.uint8]:
    colours = np.zeros((*size, 3), np.uint8)
    for number, mask, _ in segments:
        colours[mask] = number % 256, number // 256 % 256, number // 65536
    return colours


def _narrate(image: int, infos: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> dict[str, Any]:
    segments = [{"utterance": text, "segment_ids": ids, "noun": bool(ids)} for text, ids in _utter(infos, names)]
    caption = " ".join(str(each["utterance"]) for each in segments)
    return {"image_id": str(image), "caption": caption, "segments": segments}


def _utter(infos: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> Iterator[tuple[str, list[str]]]:
    yield "In this image there is", []
    groups: dict[int, list[str]] = {}
    for info in infos:
        groups.setdefault(info["category_id"], []).append(str(info["id"]))
    for category, ids in groups.items():
        if category == REST:
            yield "the background", ids
        else:
            count = _NUMBERS[len(ids)] if len(ids) < len(_NUMBERS) else "many"
            yield (f"{count} {names[category]}s" if len(ids) > 1 else f"a {names[category]}"), ids
        yield "and", []
    yield "that is all", []
