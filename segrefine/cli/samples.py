"""`segrefine samples`: the shipped scenes as a folder to play with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

from segrefine.assets import demo_labels, demo_samples
from segrefine.cli.console import common_options, show
from segrefine.storage import output_errors

PARTS = ("images", "masks", "truth")


@click.command("samples")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--copies", type=click.IntRange(min=1), default=1, show_default=True, help="Of every scene.")
@common_options
def command(folder: Path, copies: int, as_json: bool) -> None:
    """Write the twelve demo scenes to FOLDER: images/, masks/ (coarse), truth/ and labels.json."""
    labels = {}
    with output_errors(folder):
        for part in PARTS:
            (folder / part).mkdir(parents=True, exist_ok=True)
        for name, label in demo_labels().items():
            for copy in range(copies):
                target = name if copies == 1 else f"{name}-{copy + 1:03d}"
                for part in PARTS:
                    shutil.copyfile(demo_samples() / part / f"{name}.png", folder / part / f"{target}.png")
                labels[target] = label
        (folder / "labels.json").write_text(json.dumps(labels, indent=2) + "\n", encoding="utf-8")
    show({"folder": str(folder), "scenes": len(labels)}, f"{len(labels)} scenes → {folder}", as_json=as_json)
