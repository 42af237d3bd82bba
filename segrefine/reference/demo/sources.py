"""Where the demo scenes come from: emoji sprites from npm, photographs from Debian's wallpaper packages.

Nothing here ships with segrefine; `fetch_sources` downloads the packages once with the ordinary clients (`npm`,
`apt-get`) and keeps one compact file of sprites and background crops. Sprites: Fluent (Microsoft, MIT), Noto (Google,
Apache-2.0), Twemoji (CC-BY 4.0), and for training only Firefox OS (Apache-2.0), EmojiOne 1 and 2 (CC-BY-SA 4.0,
CC-BY 4.0), OpenMoji (CC-BY-SA 4.0) and Streamline (CC-BY 4.0).
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Image = NDArray[np.uint8]

CLASSES: dict[str, str] = {
    "fox": "1f98a", "car": "1f697", "apple": "1f34e", "tree": "1f333", "penguin": "1f427", "butterfly": "1f98b",
    "turtle": "1f422", "elephant": "1f418", "banana": "1f34c", "boat": "26f5", "cactus": "1f335", "guitar": "1f3b8",
    "mushroom": "1f344", "crown": "1f451", "umbrella": "2602-fe0f", "rocket": "1f680",
}  # fmt: skip
"""Class name → emoji code point: the sixteen things the demo model knows."""

_DISTRACTORS = """
    1f419 1f353 1f34d 1f420 1f68c 1f3e0 1f514 1f511 1f352 1f40c 1f955 1f433 1f388 1f3c6 1f350
    1f337 2693 1f3a9 1f43c 1f438 1f981 1f437 1f989 1f980 1f354 1f355 1f369 1f33b 23f0 1f4f7
"""
DISTRACTORS = tuple(_DISTRACTORS.split())
"""Emoji whose fragments clutter the backgrounds, so that "looks like a sprite" does not mean "is an object"."""

STYLES: dict[str, tuple[str, str]] = {
    "fluent": ("@lobehub/fluent-emoji-3d@1.1.0", "assets/{code}.webp"),
    "noto": ("emoji-datasource-google@16.0.0", "img/google/64/{code}.png"),
    "twemoji": ("emoji-datasource-twitter@16.0.0", "img/twitter/64/{code}.png"),
}
"""Sprite style → (npm package, path of a sprite in it): the styles of which one per class is held out."""

DRAWN_STYLES: dict[str, tuple[str, str | None]] = {
    "fluent-flat": ("@iconify-json/fluent-emoji-flat@1.2.6", "fluent"),
    "noto-blob": ("@iconify-json/noto-v1@1.2.5", "noto"),
    "firefox": ("@iconify-json/fxemoji@1.2.2", None),
    "emojione-1": ("@iconify-json/emojione-v1@1.2.3", None),
    "emojione-2": ("@iconify-json/emojione@1.2.3", None),
    "openmoji": ("@iconify-json/openmoji@1.2.29", None),
    "streamline": ("@iconify-json/streamline-emojis@1.2.4", None),
}
"""Vector style, of training only → (npm package, the style by the same designers: held out together with it)."""

_DRAWN_NAMES: dict[str, tuple[str, ...]] = {
    "fox": ("fox", "fox-face", "fox-face-1"), "car": ("automobile",), "apple": ("red-apple", "redapple"),
    "tree": ("deciduous-tree",), "boat": ("sailboat",), "penguin": ("penguin", "penguin-1"),
    "cactus": ("cactus", "cactus-1"),
}  # fmt: skip
"""What the vector styles call a class, where it is not the name of the class itself."""

WALLPAPERS = ("gnome-backgrounds", "mate-backgrounds", "ukui-wallpapers", "plasma-workspace-wallpapers")
SPRITE_SIDE, BACKGROUND_SIDE = 96, 320


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

    Class number i has style i mod 3 of `STYLES` held out, with the vector style of the same designers, so that every
    style is seen in training, but not on every class; every sixth wallpaper is held out. Held-out sources have held-out
    sprites and backgrounds only.

    Args:
        cache: folder for the downloaded material.
        held_out: the held-out split, else the training split.
    """
    file = fetch_sources(cache)
    with np.load(file) as stored:
        data = {name: stored[name] for name in stored.files}
    styles = list(STYLES)
    sprites = tuple(
        tuple(_unit(data[key]) for key in _sprite_keys(code, styles[i % len(styles)], held_out) if key in data)
        for i, code in enumerate(CLASSES.values())
    )
    distractors = tuple(_unit(data[f"sprite/{code}/{style}"]) for code in DISTRACTORS for style in styles)
    names = sorted(name for name in data if name.startswith("background/"))
    backgrounds = tuple(data[name] for i, name in enumerate(names) if (i % 6 == 2) == held_out)
    return Sources(sprites=sprites, distractors=distractors, backgrounds=backgrounds)


def fetch_sources(cache: Path) -> Path:
    """The file of sprites and backgrounds, downloaded and packed on the first call (about 350 MB of packages)."""
    target = cache / "sources.npz"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        arrays = _fetch_sprites(Path(scratch)) | _fetch_backgrounds(Path(scratch))
        partial = Path(scratch) / "sources.npz"
        np.savez(partial, **arrays)  # type: ignore[arg-type]  # numpy types the keywords as the positional flag
        partial.rename(target)
    return target


def _sprite_keys(code: str, reserved: str, held_out: bool) -> list[str]:
    """Names in the sources file of the sprites of a class that one split has, if style `reserved` is held out."""
    if held_out:
        return [f"sprite/{code}/{reserved}"]
    drawn = [style for style, (_, family) in DRAWN_STYLES.items() if family != reserved]
    return [f"sprite/{code}/{style}" for style in (*STYLES, *drawn) if style != reserved]


def _unit(sprite: Image) -> NDArray[np.float32]:
    return np.asarray(sprite / np.float32(255), np.float32)


def _fetch_sprites(scratch: Path) -> dict[str, Image]:
    arrays = {}
    for style, (package, path) in tqdm(STYLES.items(), desc="sprites"):
        with _npm_package(scratch, package) as archive:
            for code in [*CLASSES.values(), *DISTRACTORS]:
                arrays[f"sprite/{code}/{style}"] = _crop_sprite(_member(archive, path.format(code=code)))
    for style, (package, _) in tqdm(DRAWN_STYLES.items(), desc="vector sprites"):
        with _npm_package(scratch, package) as archive:
            icons = json.loads(_member(archive, "icons.json"))
        for name, code in CLASSES.items():
            if drawn := _draw_icon(icons, _DRAWN_NAMES.get(name, (name,))):
                arrays[f"sprite/{code}/{style}"] = _crop_sprite(drawn)
    return arrays


def _npm_package(scratch: Path, package: str) -> tarfile.TarFile:
    packed = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=scratch, check=True, capture_output=True, text=True
    )
    return tarfile.open(scratch / packed.stdout.strip().splitlines()[-1])


def _member(archive: tarfile.TarFile, path: str) -> bytes:
    member = archive.extractfile("package/" + path)
    assert member is not None
    return member.read()


def _draw_icon(icons: dict[str, Any], names: tuple[str, ...]) -> bytes | None:
    """The first icon of `names` that an Iconify collection has, drawn as a PNG file; None if it has none."""
    from resvg_py import svg_to_bytes

    aliases = icons.get("aliases", {})
    found = next(
        (icon for name in names if (icon := icons["icons"].get(aliases.get(name, {}).get("parent", name)))), None
    )
    if found is None:
        return None
    width, height = (found.get(side, icons.get(side, 16)) for side in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{found["body"]}</svg>'
    )
    return bytes(svg_to_bytes(svg_string=svg, width=2 * SPRITE_SIDE, height=2 * SPRITE_SIDE))


def _crop_sprite(encoded: bytes) -> Image:
    """The sprite cut to its opaque part and scaled to `SPRITE_SIDE` pixels on its longer side, uint8 (h, w, 4) RGBA."""
    bgra = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    assert bgra is not None
    ys, xs = np.nonzero(bgra[..., 3] > 20)
    bgra = bgra[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    scale = SPRITE_SIDE / max(bgra.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(bgra, None, fx=scale, fy=scale, interpolation=method)[..., [2, 1, 0, 3]])


def _fetch_backgrounds(scratch: Path) -> dict[str, Image]:
    subprocess.run(["apt-get", "download", *WALLPAPERS], cwd=scratch, check=True, capture_output=True)
    for archive in scratch.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive.name, "wallpapers"], cwd=scratch, check=True)
    arrays: dict[str, Image] = {}
    seen: set[str] = set()
    for file in tqdm(sorted((scratch / "wallpapers").rglob("*.*")), desc="backgrounds"):
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
