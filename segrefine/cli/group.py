"""`segrefine`: the commands, and how every error of theirs ends."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import click

from segrefine import __version__
from segrefine.cli.console import FAILED, Console
from segrefine.errors import EngineWarning, SegrefineError

USAGE, INTERRUPTED = 2, 130
COMMANDS = {
    "refine": "refine", "segment": "segment", "batch": "batch", "watch": "watch", "eval": "evaluate", "bench": "bench",
    "sweep": "sweep", "tune": "tune", "demo": "demo", "samples": "samples", "train": "train", "export": "export",
    "build-engine": "build_engine", "inspect": "inspect", "parity": "parity", "doctor": "doctor", "serve": "serve",
    "export-triton": "export_triton",
}  # fmt: skip
"""The modules of the commands, each of which has its command under its own name; imported when asked for."""


class Group(click.Group):
    """Commands that fail with one `error:` line, one `hint:` line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        name = COMMANDS.get(cmd_name)
        command: click.Command | None = getattr(import_module(f"segrefine.cli.{name}"), name) if name else None
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show the help for a command line without words, which is wrong usage: in click 8.1 as in later versions."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(USAGE)
        return super().parse_args(ctx, args)

    def main(  # type: ignore[override]  # click's has overloads for a mode that is not used here
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Runs the command that `args` name, and exits: 0 done, 1 failed, 2 usage, 130 interrupted."""
        console = Console(words=tuple(args if args is not None else sys.argv[1:]))
        try:
            with _warnings_on(console):
                status = super().main(args, prog_name, standalone_mode=False, obj=console, **extra)
            sys.exit(status or 0)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "segrefine"
            console.fail(error.format_message(), f"{path} --help", error=error)
            sys.exit(USAGE)
        except click.Abort as error:
            hint = getattr(error, "hint", "nothing half-written was left behind; run the command again")
            console.fail("interrupted", hint, error=error)
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
            elif category.__name__ != "DecompressionBombWarning":  # --max-megapixels has the say on sizes
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
