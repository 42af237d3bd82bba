"""Results to look at: overlays, heat maps and contact sheets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segrefine.runtime.pipeline import Refinement

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]

TINT = (255, 64, 96)
TILE, GAP, CAPTION = 176, 10, 20
_PAPER, _INK, _FAINT = (250, 250, 248), (32, 34, 38), (120, 124, 130)
_HEAT = np.array([(12, 10, 40), (84, 24, 110), (176, 48, 100), (240, 120, 56), (252, 236, 150)], np.float32)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A picture, uint8 (h, w, 3) RGB of any size, and the words below it."""

    picture: Picture
    caption: str = ""


def overlay(image: Picture, mask: NDArray[np.bool_], colour: tuple[int, int, int] = TINT) -> Picture:
    """The image with the mask tinted and its contour drawn, uint8 (H, W, 3).

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: bool (H, W).
        colour: RGB of tint and contour.
    """
    tinted = image.astype(np.float32)
    tinted[mask] = 0.6 * tinted[mask] + 0.4 * np.array(colour)
    inside = np.pad(mask, 1, mode="edge")
    core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    tinted[mask & ~core] = colour
    return tinted.round().astype(np.uint8)


def heat_map(values: Floats, low: float | None = None, high: float | None = None) -> Picture:
    """Values (h, w) as colours from dark (at `low`, else the least) to bright (at `high`), uint8 (h, w, 3)."""
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    place = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * (len(_HEAT) - 1)
    channels = [np.interp(place, np.arange(len(_HEAT)), _HEAT[:, channel]) for channel in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def grey(probability: Floats | NDArray[np.bool_]) -> Picture:
    """A probability or mask (h, w) in shades of grey, uint8 (h, w, 3)."""
    shade = np.round(np.clip(probability.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    return np.repeat(shade[..., None], 3, -1)


def trace_sheet(
    image: Picture, coarse: Floats, result: Refinement, decode: Callable[[Floats], Picture], title: str = ""
) -> Picture:
    """How a mask came about: image, coarse mask, text evidence, each round, result; uint8 (H', W', 3).

    Args:
        image: uint8 (H, W, 3) RGB.
        coarse: float (H, W) coarse probability in [0, 1].
        result: what the refiner returned for them.
        decode: latents → picture, such as `Refiner.decode`.
        title: a line at the top.
    """
    rows = [
        [
            Tile(picture=image, caption="image"),
            Tile(picture=overlay(image, coarse > 0.5), caption="coarse mask"),
            Tile(picture=heat_map(result.text_evidence), caption="error the label takes away"),
            Tile(picture=overlay(image, result.mask), caption="result"),
        ]
    ]
    for number, turn in enumerate(result.rounds, 1):
        rows.append(
            [
                Tile(picture=decode(turn.generated), caption=f"round {number}: generated, t={turn.timestep}"),
                Tile(picture=heat_map(turn.discrepancy), caption="discrepancy"),
                Tile(picture=grey(turn.probability), caption="probability"),
            ]
        )
    rows[-1].append(Tile(picture=grey(result.probability), caption="after the edge step"))
    return contact_sheet(rows, title)


def contact_sheet(rows: Sequence[Sequence[Tile]], title: str = "") -> Picture:
    """Rows of captioned tiles on paper, uint8 (H', W', 3); small pictures are magnified."""
    top = 3 * GAP + CAPTION if title else GAP
    width = GAP + max(len(row) for row in rows) * (TILE + GAP)
    height = top + len(rows) * (TILE + CAPTION + GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((GAP, GAP), title, _INK, ImageFont.load_default(16))
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            left, upper = GAP + column * (TILE + GAP), top + row * (TILE + CAPTION + GAP)
            picture = _fit(tile.picture)
            sheet.paste(picture, (left + (TILE - picture.width) // 2, upper + (TILE - picture.height) // 2))
            draw.text((left, upper + TILE + 3), tile.caption, _FAINT, ImageFont.load_default(12))
    return np.asarray(sheet)


def _fit(picture: Picture) -> Image.Image:
    """The picture scaled to fit a tile, its aspect kept."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    scale = TILE / max(image.size)
    method = Image.Resampling.NEAREST if scale >= 4 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)
