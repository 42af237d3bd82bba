"""Pictures that show what happened: overlays, heat maps and contact sheets, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segrefine.runtime.files.output import voc_colours
from segrefine.runtime.imaging.filters import erode
from segrefine.runtime.imaging.grid import cut_filling
from segrefine.runtime.refinement import Refinement
from segrefine.runtime.segmentation import Segment

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

ORANGE: Colour = (255, 122, 26)
PAPER: Colour = (250, 249, 246)
INK: Colour = (38, 38, 44)
FAINT: Colour = (128, 126, 122)
BETTER: Colour = (24, 128, 72)
WORSE: Colour = (190, 46, 46)

TILE = 192
_GAP, _MARGIN, _CAPTION = 12, 24, 24
_RAMP = np.array([(22, 16, 48), (74, 22, 104), (158, 42, 99), (222, 86, 58), (250, 164, 42), (252, 244, 178)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """One picture of a contact sheet, uint8 (h, w, 3), with a caption below it and a coloured note after that."""

    picture: Pixels
    caption: str = ""
    note: str = ""
    colour: Colour = INK


@dataclass(frozen=True, kw_only=True, eq=False)
class BeforeAfter:
    """A mask before and after refining.

    Attributes:
        image: uint8 (H, W, 3).
        coarse: bool (H, W).
        refined: bool (H, W).
        label: what the masks show.
        iou_before: of the coarse mask with the true one, in [0, 1].
        iou_after: of the refined mask.
    """

    image: Pixels
    coarse: NDArray[np.bool_]
    refined: NDArray[np.bool_]
    label: str
    iou_before: float
    iou_after: float


def overlay(image: Pixels, mask: NDArray[np.bool_], colour: Colour = ORANGE) -> Pixels:
    """The image, uint8 (H, W, 3), with the mask, bool (H, W), tinted and its border drawn as a line."""
    drawn = image.copy()
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not rows.size:
        return drawn
    around = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inside, part = mask[around], drawn[around]
    width = max(1, round(min(max(mask.shape), 8 * min(mask.shape)) / 160))  # a strip's line is no wider than the strip
    line = inside & ~erode(inside, width)
    tints = np.round(0.6 * np.arange(256)[:, None] + 0.4 * np.array(colour)).astype(np.uint8)
    for channel, value in enumerate(colour):
        plane = part[..., channel]
        plane[inside] = tints[plane[inside], channel]
        plane[line] = value
    return drawn


def overlay_labels(image: Pixels, labels: NDArray[np.integer[Any]]) -> Pixels:
    """The image, uint8 (H, W, 3), with each label of a map (H, W) tinted in its own colour; 0 is left as it is."""
    for number, colour in enumerate(voc_colours(int(labels.max(initial=0)) + 1)):
        if number and (labels == number).any():
            red, green, blue = colour.tolist()
            image = overlay(image, labels == number, (red, green, blue))
    return image


def heat_map(values: NDArray[np.floating[Any]], low: float, high: float) -> Pixels:
    """Values (h, w) as colours, uint8 (h, w, 3): from dark violet at `low` and below to pale yellow at `high`."""
    position = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * (len(_RAMP) - 1)
    channels = [np.interp(position, np.arange(len(_RAMP)), _RAMP[:, channel]) for channel in range(3)]
    return np.asarray(np.round(np.stack(channels, -1)), np.uint8)


def trace_sheet(
    image: Pixels,
    result: Refinement,
    decode: Callable[[NDArray[np.float32]], Pixels],
) -> Pixels:
    """Draw the refinement of a mask as one picture, uint8 (h, w, 3): rows for input, each round, and result.

    Of a small object that was refined in a crop it shows the crop.

    Args:
        image: uint8 (H, W, 3).
        result: what the refiner made of a mask in it.
        decode: latents (1, c, h, w) → picture, such as `Refiner.decode`.
    """
    part = result.part or (slice(None), slice(None))
    image = image[part]
    coarse = result.coarse[part]
    size = (image.shape[0], image.shape[1])
    large = magnify(image)

    def latent_map(values: NDArray[np.float32], low: float, high: float) -> Pixels:
        return magnify(cut_filling(heat_map(values, low, high), size), smooth=False)

    evidence = float(np.abs(result.text_evidence).max())
    largest = max((float(each.discrepancy.max()) for each in result.rounds), default=1.0)
    rows = [
        [
            Tile(picture=large, caption="image", note=result.label),
            Tile(picture=overlaid(large, coarse > 0.5), caption="coarse mask"),
            Tile(
                picture=latent_map(result.text_evidence, -evidence, evidence),
                caption="text evidence",
                note="bright: for it",
            ),
        ]
    ]
    for number, each in enumerate(result.rounds, 1):
        generated = magnify(cut_filling(decode(each.generated), size))
        rows.append(
            [
                Tile(picture=generated, caption=f"round {number}: generated, t = {each.timestep}"),
                Tile(picture=latent_map(each.discrepancy, 0, largest), caption="discrepancy", note="bright: large"),
                Tile(picture=latent_map(each.probability, 0, 1), caption="probability", note="bright: foreground"),
            ]
        )
    rows.append(
        [
            Tile(picture=_heat_tile(result.paper_probability[part], 1), caption="probability, full size"),
            Tile(picture=_heat_tile(result.probability[part], 1), caption="after the edge step"),
            Tile(picture=overlaid(large, result.mask[part]), caption="refined mask"),
        ]
    )
    return contact_sheet(rows)


def segment_sheet(rows: Sequence[tuple[Pixels, Segment, str]], *, columns: int = 1) -> Pixels:
    """Draw mask and probability of each phrase as one picture, uint8 (h, w, 3).

    The uncertainty is beside them, unless there is one sample of each, which has none.

    Args:
        rows: an image, uint8 (H, W, 3), what was found in it, and a note.
        columns: phrases beside each other.
    """
    spread = any(len(segment.samples) > 1 for _, segment, _ in rows)
    groups = [_segment_tiles(*row)[: 3 if spread else 2] for row in rows]
    return contact_sheet(_lines(groups, columns), group=len(groups[0]))


def _segment_tiles(image: Pixels, segment: Segment, note: str) -> list[Tile]:
    return [
        Tile(picture=overlaid(magnify(image), segment.mask), caption=segment.phrase, note=note),
        Tile(picture=_heat_tile(segment.probability, 1), caption="probability"),
        Tile(picture=_heat_tile(segment.uncertainty, 0.5), caption="uncertainty"),
    ]


def before_after_sheet(rows: Sequence[BeforeAfter], *, columns: int = 2) -> Pixels:
    """Images, their coarse and refined masks with IoU, as one picture, uint8 (h, w, 3); `columns` in a row."""
    return contact_sheet(_lines([_before_after_tiles(row) for row in rows], columns), group=3)


def _lines(groups: Sequence[list[Tile]], columns: int) -> list[list[Tile]]:
    """Groups of tiles, `columns` of them beside each other."""
    return [sum(groups[first : first + columns], []) for first in range(0, len(groups), columns)]


def _before_after_tiles(row: BeforeAfter) -> list[Tile]:
    large = magnify(row.image)
    gain = 100 * (row.iou_after - row.iou_before)
    return [
        Tile(picture=large, caption=row.label),
        Tile(picture=overlaid(large, row.coarse), caption=f"coarse: IoU {row.iou_before:.3f}"),
        Tile(
            picture=overlaid(large, row.refined),
            caption=f"refined: {row.iou_after:.3f}",
            note=f"{gain:+.1f} points",
            colour=BETTER if gain >= 0 else WORSE,
        ),
    ]


def contact_sheet(rows: Sequence[Sequence[Tile]], *, group: int = 0) -> Pixels:
    """Tiles in rows on light paper, with captions, uint8 (h, w, 3); a wider gap after every `group` columns."""
    height = [max(tile.picture.shape[0] for tile in row) + _CAPTION for row in rows]
    columns = max(map(len, rows))
    left = [_MARGIN + c * (TILE + _GAP) + (c // group * 2 * _GAP if group else 0) for c in range(columns)]
    size = left[-1] + TILE + _MARGIN, 2 * _MARGIN + sum(height) + _GAP * (len(rows) - 1)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for row, tall in zip(rows, height, strict=True):
        for x, tile in zip(left, row, strict=False):
            sheet.paste(Image.fromarray(tile.picture), (x + (TILE - tile.picture.shape[1]) // 2, top))
            _write_caption(draw, (x, top + tall - _CAPTION + 5), tile)
        top += tall + _GAP
    return np.asarray(sheet)


def magnify(picture: Pixels, *, smooth: bool = True) -> Pixels:
    """The picture, uint8 (h, w, 3), with its longer side brought to `TILE` pixels."""
    resampling = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize(_tile_size(picture), resampling))


def _heat_tile(values: NDArray[np.float32], high: float) -> Pixels:
    """A map (h, w) from 0 to `high` in colours, with its longer side brought to `TILE` pixels."""
    scaled = Image.fromarray(values).resize(_tile_size(values), Image.Resampling.BICUBIC)
    return heat_map(np.asarray(scaled), 0, high)


def _tile_size(picture: NDArray[Any]) -> tuple[int, int]:
    """Width and height of a picture (h, w, ...) whose longer side is `TILE` pixels."""
    height, width = (max(1, round(side * TILE / max(picture.shape[:2]))) for side in picture.shape[:2])
    return width, height


def overlaid(large: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """A magnified image under a mask at its own size, whose border is smoothed on the way."""
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(large.shape[1::-1], Image.Resampling.BICUBIC)
    return overlay(large, np.asarray(soft) > 127)


def _write_caption(draw: ImageDraw.ImageDraw, place: tuple[int, int], tile: Tile) -> None:
    font = _font()
    room = TILE - draw.textlength("  " + tile.note, font)
    caption = tile.caption
    while caption and draw.textlength(caption, font) > room:
        caption = caption.removesuffix("…")[:-1] + "…"
    draw.text(place, caption, font=font, fill=INK)
    draw.text((place[0] + TILE, place[1]), tile.note, font=font, fill=tile.colour, anchor="ra")


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)
