"""The type of every path that a command is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


class GivenPath(click.Path):
    """A path. An empty text is refused: it would be the current folder, where a variable of the shell is not set.

    Args:
        options: as those of `click.Path`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """The path; fails as a usage error."""
        if not os.fspath(value):
            self.fail("expected a path, got an empty text", param, ctx)
        return super().convert(value, param, ctx)
