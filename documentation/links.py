"""Where the files of the project are on the site, and links between them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = "https://github.com/segrefine/segrefine/blob/main/"
_LINK = re.compile(r"(\]\()(?!https?://|mailto:|#)([^)#\s]+)((?:#[^)\s]*)?\))")
_OWN = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def outside_pages() -> dict[str, Path]:
    """Pages and pictures outside of docs/ that are part of the site, by their path there."""
    results = [each for each in (ROOT / "benchmarks/results").iterdir() if each.suffix in (".md", ".png")]
    return {place: ROOT / source for source, place in _OWN.items()} | {f"results/{each.name}": each for each in results}


def place_of(path: str) -> str | None:
    """The path on the site of a file, given by its path in the project; None if it is not there."""
    if path in _OWN:
        return _OWN[path]
    for folder, place in (("docs/", ""), ("benchmarks/results/", "results/")):
        if path.startswith(folder) and path.endswith((".md", ".png")):
            return place + path.removeprefix(folder)
    return None


def source_of(place: str) -> str:
    """The path in the project of a page of the site."""
    own = {place: source for source, place in _OWN.items()}
    return own.get(place) or (f"benchmarks/{place}" if place.startswith("results/") else f"docs/{place}")


def rewrite_links(markdown: str, place: str) -> str:
    """Markdown in which links that hold in the project hold on the site.

    Args:
        markdown: of a page.
        place: the page's path on the site, such as `results/peers.md`.
    """
    folder = posixpath.dirname(source_of(place))
    return _LINK.sub(_in(folder, posixpath.dirname(place)), markdown)


def _in(folder: str, page_folder: str) -> Callable[[re.Match[str]], str]:
    """What replaces a link of a page in a folder of the project, which is another folder of the site."""

    def replace(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        place = place_of(path)
        new = SOURCE + path if place is None else posixpath.relpath(place, page_folder or ".")
        return before + new + after

    return replace
