"""The command line: the only place that prints, exits and reads environment variables."""

from segrefine.cli.main import main

__all__ = ["main"]
