"""Options of commands that read a PyTorch model, or some graphs of a bundle."""

from __future__ import annotations

import click


def split_names(context: click.Context, parameter: click.Parameter, text: str | None) -> list[str] | None:
    """Split a text into names at its commas."""
    return [name.strip() for name in text.split(",")] if text is not None else None


config_option = click.option(
    "--config",
    metavar="FOLDER|HUB-ID",
    help="Diffusers folder or hub id with the architecture of a single file.  [default: found by the weights, "
    "from the hub]",
)
vae_option = click.option(
    "--vae",
    metavar="FOLDER|HUB-ID",
    help="Another image codec, such as madebyollin/taesd, a small one.  [default: the model's own]",
)
components_option = click.option(
    "--components", callback=split_names, metavar="A,B,…", help="Graphs to take, separated by commas.  [default: all]"
)
