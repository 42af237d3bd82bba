"""What all commands share: options, output for people and for programs, progress."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from tqdm import tqdm

from segrefine.errors import MissingDependencyError, OutputError

VERBOSE = "segrefine.verbose"
Command = TypeVar("Command", bound=Callable[..., Any])


def common_options(command: Command) -> Command:
    """Adds `--json`, which the command gets as `as_json`, and `-v/--verbose`."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        ctx.meta[VERBOSE] = value

    verbose = click.option(
        "-v", "--verbose", is_flag=True, expose_value=False, callback=remember, help="Show tracebacks."
    )
    return verbose(click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")(command))


def engine_options(command: Command) -> Command:
    """Adds `--bundle`, `--backend`, `--device` and `--threads`."""
    options = (
        click.option("--bundle", type=click.Path(path_type=Path), help="[default: the demo model's bundle]"),
        click.option("--backend", default="onnxruntime", show_default=True, help="What runs the graphs."),
        click.option("--device", default="cpu", show_default=True, help="cpu, or cuda:N."),
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads  [default: all cores]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def show(data: Mapping[str, Any], text: str, *, as_json: bool, err: bool = False) -> None:
    """Prints `data` as JSON, or `text` for people (on stderr with `err`)."""
    if as_json:
        click.echo(json.dumps(data))
    else:
        click.echo(text, err=err)


def note(line: str) -> None:
    """Prints a line of progress on stderr."""
    click.echo(line, err=True)


@contextmanager
def progress_bar(total: float, description: str) -> Iterator[tqdm[Any]]:
    """A bar on stderr, shown on a terminal when the work takes longer than two seconds."""
    with tqdm(total=total, desc=description, delay=2, disable=not sys.stderr.isatty(), leave=False) as bar:
        yield bar


def check_output(*files: Path | None) -> None:
    """Checks, before any work is done, that files can be written.

    Raises:
        OutputError: a folder does not exist or is read-only.
    """
    for file in files:
        if file is None or str(file) == "-":
            continue
        folder = file.parent
        if not folder.is_dir():
            raise OutputError(f"cannot write {file}: there is no folder {folder}", hint=f"create it: mkdir -p {folder}")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"cannot write {file}: {folder} is read-only", hint="choose another folder")


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """A context in which a missing package becomes an error that names the extra to install.

    Raises:
        MissingDependencyError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"this needs the package {error.name}", hint=f'install it: pip install "segrefine[{extra}]"'
        ) from error
