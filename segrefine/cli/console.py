"""Output of commands: results on stdout, everything else on stderr, errors as one line and a hint."""

from __future__ import annotations

import itertools
import json
import logging
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import click

from segrefine.errors import OutputError

Params = ParamSpec("Params")
Tell = Callable[[str, float | None], None]
"""Called with the stage and, where known, the share of the work that is behind, in [0, 1]."""

FAILED = 1
"""The exit code of a command that failed, or that some of its items did."""
_PATIENCE = 2.0
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_LONGEST_MESSAGE = 400


@dataclass
class Console:
    """Streams that a command writes to.

    Attributes:
        json: the result is one JSON object.
        verbose: stages are told as lines, and an error with its traceback.
        words: the command line, without the program.
    """

    json: bool = False
    verbose: bool = False
    words: Sequence[str] = ()

    def result(self, values: Mapping[str, Any], text: str, *, stdout: bool = True) -> None:
        """Prints what the command found, as `values` or as `text`; on stderr where stdout carries a picture."""
        output = json.dumps(values, ensure_ascii=False, indent=2) if self.json else text
        if not stdout:
            click.echo(output, err=True)
            return
        with stdout_errors():
            click.echo(output)

    def warn(self, message: str) -> None:
        """Prints, as one line on stderr, what did not stop the command but should be known."""
        click.echo(f"warning: {message}", err=True)

    def fail(self, message: str, hint: str | None, *, error: BaseException | None = None) -> None:
        """Prints an error as one line, and its hint as another; with `--verbose`, the traceback before them."""
        if self.verbose and error is not None:
            click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        line = " ".join(message.split())
        if len(line) > _LONGEST_MESSAGE and not self.verbose:
            line = line[:_LONGEST_MESSAGE].rstrip() + " …"
        click.echo(f"error: {line}", err=True)
        click.echo(f"hint: {hint or 'segrefine --help lists the commands and their options'}", err=True)

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """A context whose work goes on with `--resume` after it was interrupted, and the error says so.

        Raises:
            Interrupted: by Ctrl-C.
        """
        try:
            yield
        except KeyboardInterrupt as error:
            words = [*self.words, *(["--resume"] if "--resume" not in self.words else [])]
            command = f"{click.get_current_context().find_root().command_path} {shlex.join(words)}"
            raise Interrupted(f"what is finished is kept; to go on: {command}") from error

    @contextmanager
    def progress(self, title: str, *, long: bool = False) -> Iterator[Tell]:
        """A context with a function to tell of each stage.

        On a terminal a line with the elapsed time appears after two seconds, and goes when the work is done. Elsewhere
        each stage is a line on stderr, told once, with `--verbose` or where the work is `long`: minutes, not seconds.
        """
        if not sys.stderr.isatty():
            last = ""

            def tell(stage: str, share: float | None = None) -> None:
                nonlocal last
                if stage != last and (long or self.verbose):
                    click.echo(f"{title}: {stage}", err=True)
                last = stage

            yield tell
            return
        line = _StatusLine(title)
        thread = threading.Thread(target=line.run, daemon=True)
        thread.start()
        try:
            yield line.tell
        finally:
            line.stop.set()
            thread.join()


class Interrupted(click.Abort):
    """Ctrl-C, in a command that knows how to go on.

    Attributes:
        hint: how.
    """

    def __init__(self, hint: str) -> None:
        super().__init__()
        self.hint = hint


class _StatusLine:
    """A line on the terminal that is drawn anew five times a second, so that the time is seen to pass."""

    def __init__(self, title: str) -> None:
        self.stop = threading.Event()
        self._title, self._state, self._started = title, "", time.time()

    def tell(self, stage: str, share: float | None = None) -> None:
        self._state = stage if share is None else f"{stage} {share:4.0%}"

    def run(self) -> None:
        if self.stop.wait(_PATIENCE):
            return
        from tqdm import tqdm

        with tqdm(file=sys.stderr, leave=False, dynamic_ncols=True, bar_format="{desc}  {elapsed}") as line:
            line.start_t = self._started
            for frame in itertools.cycle(_FRAMES):
                line.set_description_str(f"{frame} {self._title}: {self._state}")
                if self.stop.wait(0.2):
                    break


def with_console(command: Callable[Concatenate[Console, Params], None]) -> Callable[..., None]:
    """Gives a command `--json` and `-v/--verbose`, and as its first argument the console that they set up."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
    @click.option("-v", "--verbose", is_flag=True, help="Print every stage and the log. Show tracebacks.")
    @click.pass_obj
    @wraps(command)
    def configured(console: Console, /, *args: Any, as_json: bool, verbose: bool, **options: Any) -> None:
        console.json, console.verbose = as_json, verbose
        with _log_shown() if verbose else nullcontext():
            command(console, *args, **options)

    return configured


@contextmanager
def _log_shown() -> Iterator[None]:
    """A context in which the library's log is printed on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(name)s: %(message)s"))
    logger = logging.getLogger("segrefine")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def stdout_errors() -> Iterator[None]:
    """A context for writing to stdout, in which the system's refusals become an `OutputError`.

    A reader that has gone away is no error: click ends the command quietly.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        message = f"cannot write the result to stdout: {error.strerror or error}"
        raise OutputError(message, hint="free some space where stdout leads to, or send it elsewhere") from error


def describe_guard(values: Mapping[str, Any]) -> str | None:
    """Describe the guard's changes in a batch; None if it made none."""
    if not values.get("kept_coarse") and not values.get("kept_partly"):
        return None
    return f"{values['kept_coarse']} masks unchanged, {values['kept_partly']} with some changes undone"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A text table with a rule under its header; columns whose every cell is a number go to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [
        all(cell.strip("+-.%").replace(".", "").isdigit() or not cell for cell in column[1:]) for column in columns
    ]
    lines = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in (header, ["─" * width for width in widths], *rows)
    ]
    return "\n".join(lines)
