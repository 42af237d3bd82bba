"""Content of a COCO JSON: ids, file names and masks of annotations, each read by one rule."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segrefine.datasets.items import check_size, whole_number
from segrefine.datasets.polygons import Mask, draw_polygons
from segrefine.errors import MaskError
from segrefine.runtime.files.rle import decode_rle
from segrefine.storage import read_json_object

LEFT_OUT = "left_out"
"""The list that `segrefine batch` writes beside `images`: ids of the images that failed."""
HINT = "see https://cocodataset.org/#format-data"
_NEEDED = (("images", ("id", "file_name")), ("annotations", ("image_id",)), ("categories", ("id", "name")))
_IDS = {"images": ("id",), "annotations": ("image_id", "category_id", "id"), "categories": ("id",)}
_WHOLE_TEXT = re.compile(r"(-?[0-9]{1,300})(\.0+)?")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)
_WINDOWS_ROOT = re.compile(r"[a-z]:[\\/]|\\\\", re.IGNORECASE)
_RELATIVE = "paths are relative to the folder of images, which --images names"


class UnusableMask(MaskError):
    """An annotation that has no mask: none at all, or one that is not drawn as COCO draws masks."""


def key_of(number: Any) -> str | None:
    """The one spelling of an id: 1, 1.0, "1" and "1.0" are the same id. None for what is no id."""
    if isinstance(number, str):
        found = _WHOLE_TEXT.fullmatch(number)
        is_plain = found and str(int(found[1])) == found[1]  # "007" and "-0" are names, and no numbers
        return found[1] if found and is_plain else number
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return str(int(number)) if isinstance(number, int) or number.is_integer() else None


def read_coco(file: Path) -> dict[str, Any]:
    """The content of a COCO JSON: lists of images, annotations and categories, each with all that is needed of it.

    Raises:
        MaskError: the file is no COCO JSON, two categories have one id, or no annotation is of a listed image or
            category.
    """
    content = read_json_object(file, MaskError, hint=HINT)
    check_coco(content, file)
    return content


def check_coco(content: Mapping[str, Any], file: Path) -> None:
    """Check that content is a COCO JSON's; see `read_coco`."""
    for kind, needed in _NEEDED:
        entries = content.get(kind)
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise MaskError(f"it has no list of {kind}", subject=file, hint=HINT)
        for place, entry in enumerate(entries):
            _check_entry(entry, needed, f"{file}: {kind}[{place}]", _IDS[kind])
    _check_links(content, file)


def _check_entry(entry: Mapping[str, Any], needed: Iterable[str], where: str, ids: Iterable[str]) -> None:
    for name in needed:
        if name not in entry:
            raise MaskError(f"it has no {name}", subject=where, hint=HINT)
        if name not in ids and not isinstance(entry[name], str):
            raise MaskError(subject=where, expected=f"{name} as text", got=f"{entry[name]!r:.60}", hint=HINT)
    for name in ids:
        if (name in needed or entry.get(name) is not None) and key_of(entry[name]) is None:
            raise MaskError(
                subject=where, expected=f"{name} as a whole number or text", got=f"{entry[name]!r:.60}", hint=HINT
            )


def _check_links(content: Mapping[str, Any], file: Path) -> None:
    """Checks that annotations are of the images and categories of this file, and not of others altogether."""
    listed = [key_of(category["id"]) for category in content["categories"]]
    if twice := sorted({str(number) for number in listed if listed.count(number) > 1}):
        raise MaskError(f"two categories have the id {twice[0]}", subject=file, hint="give every category its own id")
    for kind, name in (("images", "image_id"), ("categories", "category_id")):
        known = {key_of(entry["id"]) for entry in content[kind]}
        used = [each[name] for each in content["annotations"] if each.get(name) is not None]
        if used and known and not any(key_of(number) in known for number in used):
            if kind == "categories" and isinstance(used[0], str) == isinstance(content[kind][0]["id"], str):
                continue  # each annotation says so itself
            of_list = _describe_id(content[kind][0]["id"])
            raise MaskError(
                f"no {name} of an annotation is listed in {kind}",
                subject=file,
                expected=of_list,
                got=_describe_id(used[0]),
                hint=f"make them the ids of {kind}",
            )


def _describe_id(number: Any) -> str:
    return f"{'text' if isinstance(number, str) else 'numbers'} such as {number!r:.40}"


def images_of(file: Path) -> Path:
    """The folder of a COCO JSON's images, where nobody names another: `images` beside it, or its own."""
    return beside if (beside := file.parent / "images").is_dir() else file.parent


def find_file(root: Path, name: str) -> tuple[str, tuple[str, str] | None]:
    """The path of an image below its folder, and what is wrong with it, as an error's message and its hint.

    A name with Windows' separators is read with ours. A name that begins with the folder's own name, as those of Label
    Studio do, is read from beside it, where there is no such folder in it.
    """
    if _ADDRESS.match(name):
        shown = name.partition(",")[0]
        return name, (f"the file name {shown!r:.80} is an address", "download the image, and name its file")
    if _WINDOWS_ROOT.match(name):
        return name, (f"the file name {name!r} is an absolute path of Windows", _RELATIVE)
    if "\0" in name:
        return name, (f"the file name {name!r} holds a zero byte", _RELATIVE)
    if "\\" in name and not os.path.exists(root / name):
        name = name.replace("\\", "/")
    if posixpath.isabs(name):
        name = os.path.relpath(name, root)
    path = posixpath.normpath(name)
    if path == "." or path == ".." or path.startswith("../"):
        what = "names no file" if path == "." else "leaves the folder of images"
        return name, (f"the file name {name!r} {what}", _RELATIVE)
    first, _, rest = path.partition("/")
    if rest and first == Path(os.path.abspath(root)).name and not os.path.exists(root / path):
        path = rest
    return path, None


def label_of(label: str | None, annotation: Mapping[str, Any]) -> str:
    """The label of an annotation, if its category has one.

    Raises:
        MaskError: it has none.
    """
    if label is None:
        message = f"category {annotation.get('category_id')!r} is not listed"
        raise MaskError(message, subject=f"annotation {annotation.get('id')}", hint="add it to categories")
    return label


def read_annotation(annotation: Mapping[str, Any], size: tuple[int, int]) -> Mask:
    """The mask, bool (H, W), of an annotation of an image of that size (H, W).

    Raises:
        UnusableMask: it has none.
        MaskError: it has one of another size than the image.
    """
    name, drawn = f"annotation {annotation.get('id')}", annotation.get("segmentation")
    if not drawn or not isinstance(drawn, list | dict):
        why = f"expected polygons or run lengths, got {drawn!r:.40}" if "segmentation" in annotation else "it has none"
        raise UnusableMask(f"{name} has no mask: {why}", hint="--boxes refines what has a box alone")
    try:
        mask = draw_polygons(drawn, size) if isinstance(drawn, list) else decode_rle(_with_whole_size(drawn))
    except MaskError as error:
        raise UnusableMask(str(error), subject=name, hint=error.hint) from error
    check_size(mask.shape, size, name)
    return mask


def _with_whole_size(drawn: dict[str, Any]) -> dict[str, Any]:
    """Run lengths with their size as numbers, which some programs write as text."""
    size = drawn.get("size")
    return drawn | {"size": [whole_number(side) for side in size]} if isinstance(size, list) else drawn
