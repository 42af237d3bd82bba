"""Renders the twelve held-out scenes that ship with segrefine: `python -m benchmarks.samples`.

Scenes are taken in the order of their seeds, the first to which each kind of corruption applies; none is picked by its
result.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.corruptions import CORRUPTIONS, SEMANTIC_KINDS, corrupt
from training.demo.captions import NAMES
from training.demo.scenes import compose_scene
from training.demo.sources import load_sources

KINDS = (*CORRUPTIONS, *SEMANTIC_KINDS, *SEMANTIC_KINDS)
SIDE, FIRST_SEED = 128, 50_000
SHOWN_FIRST = ("01", "03", "02", "04", "07")
"""Numbers of the scenes that gain most: the demo and the page show them first."""


@click.command()
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache/segrefine/demo", show_default=True
)
@click.option("--output", type=click.Path(path_type=Path), default=Path("segrefine/assets/samples"), show_default=True)
def main(cache: Path, output: Path) -> None:
    """Write images, coarse masks, true masks and labels of twelve scenes to OUTPUT."""
    sources = load_sources(cache, held_out=True)
    labels, seed = {}, FIRST_SEED
    for folder in ("images", "masks", "truth"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    for number, kind in enumerate(KINDS, 1):
        coarse = None
        while coarse is None:
            rng = np.random.default_rng(seed)
            scene = compose_scene(rng, sources, side=SIDE)
            target = int(rng.integers(len(scene.classes))) + 1
            coarse = corrupt(kind, scene.instances, target, rng)
            seed += 1
        label = NAMES[scene.classes[target - 1]]
        name = f"{number:02d}-{label}-{kind}.png"
        _save(output / "images" / name, scene.image)
        _save(output / "masks" / name, np.round(coarse * 255).astype(np.uint8))
        _save(output / "truth" / name, np.uint8(255) * (scene.instances == target))
        labels[name.removesuffix(".png")] = label
    first = [name for number in SHOWN_FIRST for name in labels if name.startswith(number)]
    ordered = {name: labels[name] for name in [*first, *labels]}
    (output / "labels.json").write_text(json.dumps(ordered, indent=2) + "\n")


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    Image.fromarray(pixels).save(path, optimize=True)


if __name__ == "__main__":
    main()
