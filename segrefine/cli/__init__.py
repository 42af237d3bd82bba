"""The command line: the only part that prints, exits and reads environment variables."""

from segrefine.cli.group import main

__all__ = ["main"]
