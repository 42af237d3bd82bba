"""The page of all commands, made from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator

import click

from segrefine.cli import main as program

_HEAD = """# Command line reference

This page is generated from the commands. `segrefine COMMAND --help` prints the same.

Every option can be set in the environment: `SEGREFINE_SERVE_PORT` is `serve --port`. Exit codes: 0 is success, 1 is
failure, 2 is wrong usage, 130 is Ctrl-C.

"""


def command_page() -> str:
    """Markdown with every command, its arguments and its options."""
    return _HEAD + "\n".join(_describe(name, command) for name, command in every_command(program))


def every_command(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Each command below a group with the words that one types, in the order of `--help`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from every_command(command, (*before, name))
        else:
            yield " ".join((*before, name)), command


def _describe(name: str, command: click.Command) -> str:
    """The section of one command."""
    context = click.Context(command, info_name=f"segrefine {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    paragraphs = [" ".join(each.split()) for each in (command.help or "").split("\n\n")]
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    records = [record for each in options if (record := each.get_help_record(context))]
    rows = [f"| `{_cell(option)}` | {_cell(_as_text(text))} |" for option, text in records]
    table = ["| option | |", "|:--|:--|", *rows] if rows else []
    return "\n".join([f"## {name}", "", f"    segrefine {name} {usage}", "", "\n\n".join(paragraphs), "", *table, ""])


def _as_text(text: str) -> str:
    """A help text on one line, with nothing in it that Markdown takes for markup."""
    return " ".join(text.split()).replace("<", "&lt;").replace("*", r"\*").replace("_", r"\_")


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
