"""Files below a folder: those that count, and those that are passed over, by the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

IMAGE_SUFFIXES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm",
    ".avif", ".heic", ".heif",
}  # fmt: skip
"""Of the formats that `segrefine.runtime.files.image` reads."""


def list_files(root: Path) -> list[str]:
    """Sorted paths of all files below a folder, relative to it, but hidden ones. Linked folders are not entered.

    Names with a dot in front are hidden, as `._photo.png` and `.ipynb_checkpoints`, which other programs leave.
    """
    found = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [os.path.relpath(os.path.join(folder, file), root) for file in files if not file.startswith(".")]
    return sorted(found)


def has_json(root: Path) -> bool:
    """Return whether a JSON of an image is right below a folder: one with the name of another file there."""
    if not root.is_dir():
        return False
    with os.scandir(root) as entries:
        names = {entry.name for entry in entries if entry.is_file()}
    stems = {os.path.splitext(name)[0] for name in names if not name.lower().endswith(".json")}
    return any(name.lower().endswith(".json") and os.path.splitext(name)[0] in stems for name in names)


def list_subfolders(root: Path) -> list[str]:
    """Sorted names of the folders right below a folder, but hidden ones."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def find_image(root: Path, name: str) -> Path | None:
    """The image below a folder that has a name, a path without suffix; None where there is none."""
    spelled = (name + each for suffix in sorted(IMAGE_SUFFIXES) for each in (suffix, suffix.upper()))
    return next((path for file in spelled if (path := root / file).is_file()), None)


def linked_folders(root: Path) -> Iterator[str]:
    """Paths of the folders that `list_files` does not enter, relative to the root; not those in hidden ones."""
    for folder, below, _ in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        paths = (os.path.join(folder, name) for name in below)
        yield from (os.path.relpath(path, root) for path in paths if os.path.islink(path))


def list_not_taken(root: Path, known: Sequence[str] = ()) -> dict[str, list[str]]:
    """Paths of the files below a folder of images that are no image, relative to it, by the reason.

    Args:
        root: the folder.
        known: suffixes of other files that belong there.
    """
    found: dict[str, list[str]] = {}
    for folder, _, files in os.walk(root):
        for file in files:
            path, suffix = os.path.relpath(os.path.join(folder, file), root), os.path.splitext(file)[1].lower()
            if any(part.startswith(".") for part in path.split(os.sep)):
                reason = "hidden, with a dot in front of a name"
            elif suffix in IMAGE_SUFFIXES or suffix in known:
                continue
            else:
                reason = f"{suffix} is not a format that is read" if suffix else "without a suffix"
            found.setdefault(reason, []).append(path)
    return {reason: sorted(paths) for reason, paths in sorted(found.items())}
