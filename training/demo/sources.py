"""Sources of the demo scenes: sprites (see `sprites`), and photographs from Debian's wallpaper packages.

Nothing here ships with segrefine; `fetch_sources` downloads the packages once with the ordinary clients (`npm`,
`apt-get`) and keeps one compact file of sprites and background crops.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.demo.sprites import (
    CLASSES,
    DISTRACTORS,
    STYLES,
    Image,
    fetch_sprites,
    sprite_keys,
    unpack_debian,
)

WALLPAPERS = ("gnome-backgrounds", "mate-backgrounds", "ukui-wallpapers", "plasma-workspace-wallpapers")
BACKGROUND_SIDE = 320


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The raw material of one split (training or held out).

    Attributes:
        sprites: for each class, in `CLASSES` order, its sprites: float32 (h, w, 4) RGBA in [0, 1].
        distractors: sprites of other things, same format.
        backgrounds: uint8 (h, w, 3) RGB photographs, short side `BACKGROUND_SIDE` pixels.
    """

    sprites: tuple[tuple[NDArray[np.float32], ...], ...]
    distractors: tuple[NDArray[np.float32], ...]
    backgrounds: tuple[Image, ...]


def load_sources(cache: Path, *, held_out: bool) -> Sources:
    """The sources of one split; fetched into `cache` first where they are not there yet.

    `sprite_keys` says which sprites are held out; of the wallpapers every sixth is. Held-out sources have held-out
    sprites and backgrounds only.

    Args:
        cache: folder for the downloaded material.
        held_out: the held-out split, else the training split.
    """
    file = fetch_sources(cache)
    with np.load(file) as stored:
        data = {name: stored[name] for name in stored.files}
    of_classes = (sprite_keys(data, number, held_out=held_out) for number in range(len(CLASSES)))
    sprites = tuple(tuple(_unit(data[key]) for key in keys) for keys in of_classes)
    distractors = tuple(_unit(data[f"sprite/{code}/{style}"]) for code in DISTRACTORS for style in STYLES)
    names = sorted(name for name in data if name.startswith("background/"))
    backgrounds = tuple(data[name] for i, name in enumerate(names) if (i % 6 == 2) == held_out)
    return Sources(sprites=sprites, distractors=distractors, backgrounds=backgrounds)


def fetch_sources(cache: Path) -> Path:
    """The file of sprites and backgrounds, downloaded and packed on the first call (about 650 MB of packages)."""
    target = cache / "sprites-and-backgrounds.npz"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        arrays = fetch_sprites(Path(scratch)) | _fetch_backgrounds(Path(scratch))
        partial = Path(scratch) / "sources.npz"
        np.savez(partial, **arrays)  # type: ignore[arg-type]  # numpy types the keywords as the positional flag
        partial.rename(target)
    return target


def _unit(sprite: Image) -> NDArray[np.float32]:
    return np.asarray(sprite / np.float32(255), np.float32)


def _fetch_backgrounds(scratch: Path) -> dict[str, Image]:
    folders = [unpack_debian(scratch, package) for package in WALLPAPERS]
    arrays: dict[str, Image] = {}
    seen: set[str] = set()
    files = (file for folder in folders for file in folder.rglob("*.*"))
    for file in tqdm(sorted(files), desc="backgrounds"):
        if file.suffix.lower() not in {".jpg", ".jpeg", ".png", ".webp"} or file.stat().st_size < 60_000:
            continue
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None or min(image.shape[:2]) < 400:
            continue
        scale = BACKGROUND_SIDE / min(image.shape[:2])
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[..., ::-1]
        group = file.parents[1].name if file.parent.name.startswith("images") else file.stem
        if group not in seen:  # the same picture comes in several sizes and tones
            seen.add(group)
            arrays[f"background/{group}"] = np.ascontiguousarray(small)
    return arrays
