"""`segrefine`, its commands, and how errors reach the user."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Sequence
from typing import Any

import click

from segrefine import __version__
from segrefine.cli.console import VERBOSE
from segrefine.errors import SegrefineError

COMMANDS = ("refine", "demo", "export", "build-engine", "inspect", "parity", "samples")


class Commands(click.Group):
    """Commands that are imported when they are called, and whose errors are one line and a hint."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order that a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name: the attribute `command` of its module."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"segrefine.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:
        """Runs the command line; environment variables are SEGREFINE_COMMAND_OPTION."""
        return super().main(args, prog_name or "segrefine", auto_envvar_prefix="SEGREFINE", **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; an error of ours becomes two lines and exit code 1, an interruption exit code 130."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted; nothing half-written was kept", err=True)
            ctx.exit(130)
        except SegrefineError as error:
            _report(ctx, str(error), error.hint)
        except Exception as error:  # the last resort: no traceback for the user, and none lost
            _report(ctx, f"unexpected {type(error).__name__}: {error}", "run again with -v, and report what it prints")


def _report(ctx: click.Context, message: str, hint: str | None) -> None:
    if ctx.meta.get(VERBOSE):
        click.echo(traceback.format_exc(), err=True)
    click.echo(f"error: {' '.join(message.split())}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    ctx.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Sharp masks from coarse ones, by a diffusion model on a low-latency engine."""
