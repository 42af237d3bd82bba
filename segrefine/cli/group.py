"""`segrefine`: the commands, and how every error of theirs ends."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from segrefine import __version__
from segrefine.cli.batch import batch
from segrefine.cli.build_engine import build_engine
from segrefine.cli.console import Console
from segrefine.cli.demo import demo
from segrefine.cli.doctor import doctor
from segrefine.cli.evaluate import evaluate
from segrefine.cli.export import export
from segrefine.cli.export_triton import export_triton
from segrefine.cli.inspect import inspect
from segrefine.cli.parity import parity
from segrefine.cli.refine import refine
from segrefine.cli.samples import samples
from segrefine.cli.segment import segment
from segrefine.cli.serve import serve
from segrefine.cli.sweep import sweep
from segrefine.errors import EngineWarning, SegrefineError

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class Group(click.Group):
    """Commands that fail with one `error:` line, one `hint:` line and an exit code."""

    def main(  # type: ignore[override]  # click's has overloads for a mode that is not used here
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Runs the command that `args` name, and exits: 0 done, 1 failed, 2 usage, 130 interrupted."""
        console = Console()
        try:
            with _warnings_on(console):
                status = super().main(args, prog_name, standalone_mode=False, obj=console, **extra)
            sys.exit(status or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(USAGE)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "segrefine"
            console.fail(error.format_message(), f"{path} --help", error=error)
            sys.exit(USAGE)
        except click.Abort as error:
            console.fail("interrupted", "nothing half-written was left behind; run the command again", error=error)
            sys.exit(INTERRUPTED)
        except (SegrefineError, click.ClickException) as error:
            console.fail(str(error), getattr(error, "hint", None), error=error)
        except Exception as error:
            hint = "run it again with -v, and report the traceback"
            console.fail(f"unexpected {type(error).__name__}: {error}", hint, error=error)
        sys.exit(FAILED)


@contextmanager
def _warnings_on(console: Console) -> Iterator[None]:
    """A context in which warnings of our own are lines of the console."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", EngineWarning)
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, EngineWarning):
                console.warn(str(message))
            else:
                show(message, category, *where, **more)

        warnings.showwarning = tell
        yield


@click.group(cls=Group, context_settings={"auto_envvar_prefix": "SEGREFINE", "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="segrefine", message="%(prog)s %(version)s")
def main() -> None:
    """Coarse mask in, sharp mask out: diffusion-based segmentation, from a PyTorch checkpoint to a fast engine.

    Try `segrefine demo --output demo-out`. Every option can also be set in the environment, as
    SEGREFINE_COMMAND_OPTION.
    """


for command in (
    refine, segment, batch, evaluate, sweep, demo, samples, export, build_engine, inspect, parity, doctor, serve,
    export_triton,
):  # fmt: skip
    main.add_command(command)
