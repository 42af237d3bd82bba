"""Options of commands that read data sets: how masks are read where their files do not say so."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

_OPTIONS = {
    "classes": click.option(
        "--classes", metavar="NAME|JSON",
        help="Class list: voc, voc20, context59, context60, coco-object, coco-stuff, coco-stuff10k, ade20k, "
        "cityscapes, or a JSON file with names by index.  [default: classes.json, or voc]",
    ),
    "background": click.option(
        "--background", metavar="RULE",
        help="Background score for class activation maps: a constant such as 0.15, or power:4 for (1 - highest)^4.  "
        "[default: that of the method that wrote the maps]",
    ),
    "key_offset": click.option(
        "--key-offset", metavar="N", type=int,
        help="Number to add to the keys of class activation maps to get class indices.  [default: the first "
             "index of the class list]",
    ),
    "maps": click.option(
        "--maps", metavar="KEY", help="Name of the entry with the class activation maps. [default: the first known]"
    ),
    "split": click.option(
        "--split", metavar="NAME|TXT",
        help="Part of a benchmark, such as val or testA, or a text file that lists its images.  [default: val]",
    ),
    "listing": click.option(
        "--listing", metavar="JSON", help="COCO JSON with images and categories, where the data set is a list of "
                                          "COCO results."
    ),
}  # fmt: skip
_COARSE = click.option(
    "--coarse", metavar="PATH",
    help="Coarse masks to refine in place of a benchmark's own: a folder of masks by image name, or predictions.json.",
)  # fmt: skip
_ZERO_SHOT = click.option(
    "--zero-shot",
    is_flag=True,
    help="Take a folder of images without masks: find the classes of --classes by name, then refine them.",
)
_REFINING = {
    "coarse": _COARSE,
    "boxes": click.option("--boxes", is_flag=True, help="Refine an annotation without a mask from its box."),
    "label": click.option("--label", metavar="TEXT", help="Label of every mask, unless labels.json names another."),
}


def comparing_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of reading masks to compare, and an argument `reading` for them."""
    return _add(command, _OPTIONS)


def tuning_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of reading coarse and true masks, and an argument `reading` for them."""
    return _add(command, _OPTIONS | {"coarse": _COARSE})


def reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of reading masks to refine, and an argument `reading` for them."""
    return _add(command, _OPTIONS | _REFINING)


def batch_reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of reading masks to refine, or of finding them, and an argument `reading`."""
    return _add(command, _OPTIONS | _REFINING | {"zero_shot": _ZERO_SHOT})


def watching_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of reading a folder that is watched, and an argument `reading` for them."""
    return _add(command, {"classes": _OPTIONS["classes"], "label": _REFINING["label"], "zero_shot": _ZERO_SHOT})


def _add(command: Callable[..., None], options: dict[str, Any]) -> Callable[..., None]:
    @wraps(command)
    def gathered(*given: Any, **named: Any) -> None:
        from segrefine.datasets.notation import ReadingOptions

        told = {name: named.pop(name) for name in options}
        for name in ("split", "coarse"):  # workers may run in another folder
            if told.get(name) and os.path.exists(told[name]):
                told[name] = os.path.abspath(told[name])
        command(*given, **named, reading=ReadingOptions(**told))

    with_options: Callable[..., None] = gathered
    for option in reversed(options.values()):
        with_options = option(with_options)
    return with_options
