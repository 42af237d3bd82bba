"""Line charts, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segrefine.runtime.drawing.pictures import FAINT, INK, ORANGE, PAPER, Pixels

_WIDTH, _HEIGHT, _SMOOTH = 300, 230, 3
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 16, 36, 30
_TICKS = 4


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Values over a few places.

    Attributes:
        title: above it.
        places: what stands below each value.
        values: one for each place.
        errors: half the length of the bar through each value.
        marked: the place with a ring around its value; None for none.
        level: a value that is drawn as a dashed line, to compare with; None for none.
    """

    title: str
    places: Sequence[str]
    values: Sequence[float]
    errors: Sequence[float]
    marked: int | None = None
    level: float | None = None


def draw_charts(charts: Sequence[Chart], *, columns: int = 3) -> Pixels:
    """Charts on one scale, `columns` of them beside each other, as one picture, uint8 (h, w, 3)."""
    columns = min(columns, len(charts))
    ends = [v + s * e for chart in charts for v, e in zip(chart.values, chart.errors, strict=True) for s in (-1, 1)]
    ends += [chart.level for chart in charts if chart.level is not None]
    room = 0.05 * (max(ends) - min(ends)) or 0.05
    scale = min(ends) - room, max(ends) + room
    size = columns * _WIDTH * _SMOOTH, -(-len(charts) // columns) * _HEIGHT * _SMOOTH
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    for number, chart in enumerate(charts):
        _Panel(draw, (number % columns * _WIDTH, number // columns * _HEIGHT), scale).draw(chart)
    smaller = (size[0] // _SMOOTH, size[1] // _SMOOTH)
    return np.asarray(picture.resize(smaller, Image.Resampling.LANCZOS))


class _Panel:
    """One chart's place on the picture; all lengths in pixels of the picture as it will be."""

    def __init__(self, draw: ImageDraw.ImageDraw, corner: tuple[int, int], scale: tuple[float, float]) -> None:
        self._draw, self._corner, self._scale = draw, corner, scale
        self._font = ImageFont.load_default(12 * _SMOOTH)

    def draw(self, chart: Chart) -> None:
        """Draws a chart."""
        self._text((_LEFT, 10), chart.title, "la")
        for tick in np.linspace(*self._scale, _TICKS):
            self._line([(_LEFT, self._y(tick)), (_WIDTH - _RIGHT, self._y(tick))], (226, 224, 220))
            self._text((_LEFT - 6, self._y(tick)), f"{tick:.3f}", "rm")
        if chart.level is not None:
            for dash in range(_LEFT, _WIDTH - _RIGHT, 8):
                self._line([(dash, self._y(chart.level)), (dash + 4, self._y(chart.level))], FAINT)
        step = (_WIDTH - _LEFT - _RIGHT) / len(chart.places)
        points = [(_LEFT + step * (i + 0.5), self._y(value)) for i, value in enumerate(chart.values)]
        self._line(points, ORANGE, 2)
        for number, (x, y) in enumerate(points):
            value, error = chart.values[number], chart.errors[number]
            self._line([(x, self._y(value - error)), (x, self._y(value + error))], ORANGE)
            self._dot((x, y), 3.5)
            if number == chart.marked:
                self._dot((x, y), 7, hollow=True)
            self._text((x, _HEIGHT - _BOTTOM + 6), chart.places[number], "ma")

    def _y(self, value: float) -> float:
        low, high = self._scale
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def _at(self, place: tuple[float, float]) -> tuple[float, float]:
        return (self._corner[0] + place[0]) * _SMOOTH, (self._corner[1] + place[1]) * _SMOOTH

    def _line(self, places: Sequence[tuple[float, float]], colour: tuple[int, int, int], width: float = 1) -> None:
        self._draw.line([self._at(place) for place in places], fill=colour, width=round(width * _SMOOTH))

    def _dot(self, place: tuple[float, float], radius: float, *, hollow: bool = False) -> None:
        (x, y), r = self._at(place), radius * _SMOOTH
        box = (x - r, y - r, x + r, y + r)
        self._draw.ellipse(box, fill=None if hollow else ORANGE, outline=INK if hollow else None, width=_SMOOTH)

    def _text(self, place: tuple[float, float], text: str, anchor: str) -> None:
        self._draw.text(self._at(place), text, font=self._font, fill=INK, anchor=anchor)
