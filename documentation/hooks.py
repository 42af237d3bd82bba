"""What mkdocs calls while it builds the site: generated pages join those of docs/, and links are made to fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))  # mkdocs loads this file by its path

from documentation.commands import command_page  # noqa: E402
from documentation.links import outside_pages, rewrite_links  # noqa: E402
from documentation.troubles import trouble_tables  # noqa: E402

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ALL_ERRORS = "<!-- all errors -->"
_GENERATED = {"reference/commands.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for place, path in outside_pages().items():
        files.append(File.generated(config, place, content=path.read_bytes()))
    files.append(File.generated(config, "reference/commands.md", content=command_page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the table of errors, and make links fit the site."""
    place = page.file.src_uri
    if ALL_ERRORS in markdown:
        markdown = markdown.replace(ALL_ERRORS, trouble_tables())
    return markdown if place in _GENERATED else rewrite_links(markdown, place)
