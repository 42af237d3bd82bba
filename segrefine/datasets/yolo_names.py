"""Names of YOLO's classes: `names` of a `data.yaml`, or the lines of a `classes.txt`."""

from __future__ import annotations

import re
from pathlib import Path

from segrefine.datasets.class_lists import classes_of
from segrefine.datasets.classes import ClassList
from segrefine.datasets.notation import Place
from segrefine.errors import MaskError
from segrefine.storage import read_text

_NUMBER = r"""['"]?(\d+)['"]?\s*:"""
_HINT = "write the names as names: [fox, car], or a name a line in classes.txt; or --classes names them"


def read_yolo_names(place: Place) -> ClassList:
    """The classes of a data set in YOLO's layout; numbers begin at 0.

    Raises:
        MaskError: nothing names them.
    """
    if place.has_classes:
        listed = classes_of(place)
        first = min(listed.names, default=0)
        names = {index - first: name for index, name in listed.names.items()}
        return ClassList(names=names, prompts=listed.prompts, background=None, origin=listed.origin)
    for folder in (place.root, place.root.parent, place.masks, place.masks.parent):
        for name in ("data.yaml", "data.yml", "dataset.yaml"):
            if (folder / name).is_file():
                return _list(_names_of_yaml(folder / name), folder / name)
        if (folder / "classes.txt").is_file():
            lines = read_text(folder / "classes.txt", errors="replace").splitlines()
            return _list(
                {place: line.strip() for place, line in enumerate(lines) if line.strip()}, folder / "classes.txt"
            )
    raise MaskError(f"nothing names the classes of the lines in {place.masks}", hint=f"data.yaml does so: {_HINT}")


def _list(names: dict[int, str], file: Path) -> ClassList:
    if not names or len(set(names.values())) < len(names):
        raise MaskError("it names no class, or one name twice", subject=file, hint=_HINT)
    return ClassList(names=names, background=None, origin=str(file))


def _names_of_yaml(file: Path) -> dict[int, str]:
    """The names in a YAML file: a list or numbered names, on one line or on lines of their own.

    Raises:
        MaskError: they are written in another way.
    """
    text = read_text(file, errors="replace")
    found = re.search(r"^names:[ \t]*(.*(?:\n(?:[ \t]+.*|[ \t]*-.*|[ \t]*#.*|[ \t]*))*)", text, re.MULTILINE)
    if not found:
        raise MaskError("it has no names", subject=file, hint=_HINT)
    value = re.sub(r"(^|\s)#.*", "", found[1]).strip()
    if value.startswith(("[", "{")):
        entries = [each for each in _split(value[1:].rsplit("]" if value[0] == "[" else "}", 1)[0])]
    else:
        entries = [line.strip() for line in value.splitlines() if line.strip()]
    names: dict[int, str] = {}
    for place, entry in enumerate(entries):
        numbered = re.fullmatch(rf"{_NUMBER}\s*(.+)", entry)
        name = numbered[2] if numbered else entry.removeprefix("- ")
        names[int(numbered[1]) if numbered else place] = name.strip().strip("'\"")
    if not all(names.values()) or any(set(name) & set("[]{}") for name in names.values()):
        raise MaskError("its names are written in a way that is not read", subject=file, hint=_HINT)
    return names


def _split(text: str) -> list[str]:
    """Parts between commas, those in quotation marks whole."""
    parts = re.finditer(rf"""(?:{_NUMBER}\s*)?(?:'[^']*'|"[^"]*"|[^,'"\n]+)""", text)
    return [part[0].strip() for part in parts if part[0].strip()]
