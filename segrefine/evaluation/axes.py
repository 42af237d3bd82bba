"""Axes of a sweep: settings by their common names, and their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from segrefine.errors import SettingsError
from segrefine.settings import G4SegSettings

Number = int | float


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One thing that is varied while all else stays.

    Attributes:
        name: of it.
        what: it is, in words.
        values: that are tried where nobody names others.
        read: its value in settings.
        change: the settings with another value.
    """

    name: str
    what: str
    values: tuple[Number, ...]
    read: Callable[[G4SegSettings], Number]
    change: Callable[[G4SegSettings, Number], G4SegSettings]


@dataclass(frozen=True, kw_only=True)
class SweepVariant:
    """Settings that are tried.

    Attributes:
        axis: what is varied.
        value: its value.
        settings: all of them.
        is_default: whether they are those that the model came with.
    """

    axis: str
    value: Number
    settings: G4SegSettings
    is_default: bool


def _with_noise(settings: G4SegSettings, value: Number) -> G4SegSettings:
    scale = value / settings.timesteps[0]
    return replace(settings, timesteps=tuple(round(timestep * scale) for timestep in settings.timesteps))


def _with_rounds(settings: G4SegSettings, value: Number) -> G4SegSettings:
    """So many rounds, from the first one's level down to nothing in even steps."""
    count, first = int(value), settings.timesteps[0]
    if count != value or count < 1:
        raise SettingsError(subject="rounds", expected="whole numbers from 1", got=value)
    levels = tuple(round(first * (count - number) / count) for number in range(count))
    return replace(settings, timesteps=levels, confusion=(settings.confusion[0],) * count)


AXES = {
    axis.name: axis
    for axis in (
        Axis(
            name="injection", what="strength of the mask in attention, in logits", values=(0.0, 3.0, 6.0, 9.0),
            read=lambda s: s.self_strength,
            change=lambda s, v: replace(s, self_strength=float(v), cross_strength=float(v)),
        ),
        Axis(
            name="mixing", what="share of the new estimate", values=(0.25, 0.5, 0.75, 1.0),
            read=lambda s: s.mixing, change=lambda s, v: replace(s, mixing=float(v)),
        ),
        Axis(
            name="noise", what="noise level of the generation, in timesteps", values=(200, 350, 500, 650),
            read=lambda s: s.timesteps[0], change=_with_noise,
        ),
        Axis(
            name="rounds", what="rounds of generating and comparing", values=(1, 2, 3),
            read=lambda s: len(s.timesteps), change=_with_rounds,
        ),
        Axis(
            name="confusion", what="largest |P − ½| of a pixel that may change", values=(0.1, 0.2, 0.3, 0.4),
            read=lambda s: s.confusion[0],
            change=lambda s, v: replace(s, confusion=(float(v),) * len(s.confusion)),
        ),
    )
}  # fmt: skip
"""Those that are varied where nobody names any."""


def plan_variants(base: G4SegSettings, wanted: Sequence[tuple[str, tuple[Number, ...]]]) -> list[SweepVariant]:
    """The variants of some axes, each with the default's own value among them, in rising order.

    Args:
        base: the settings that the model came with.
        wanted: names of axes, or of single numbers of the settings, with values; without values the axis's own.

    Raises:
        SettingsError: there is no such name, or no such value.
    """
    variants = []
    for name, values in wanted:
        axis = AXES.get(name) or _axis_of(name)
        own = axis.read(base)
        if not (values or axis.values):
            raise SettingsError(subject=name, expected="values to try", hint=f"such as --vary {name}={own},{2 * own}")
        if not all(map(math.isfinite, values)):
            raise SettingsError(subject=name, expected="finite numbers", got=f"{', '.join(map(str, values))}")
        for value in sorted({*(values or axis.values), own}):
            settings = base if value == own else axis.change(base, value)
            variants.append(SweepVariant(axis=name, value=value, settings=settings, is_default=settings == base))
    return variants


def _axis_of(name: str) -> Axis:
    """The axis of one number of the settings."""
    defaults = G4SegSettings().to_dict()
    numbers: dict[str, Number] = {each: value for each, value in defaults.items() if isinstance(value, int | float)}
    if name not in numbers:
        hint = f"there are {', '.join(AXES)}; and, with values, {', '.join(sorted(numbers.keys() - AXES.keys()))}"
        raise SettingsError(f"there is nothing called {name!r} to vary", hint=hint)

    def change(settings: G4SegSettings, value: Number) -> G4SegSettings:
        whole = isinstance(numbers[name], int)
        if whole and value != int(value):
            raise SettingsError(subject=name, expected="whole numbers", got=value)
        return G4SegSettings.from_dict(settings.to_dict() | {name: int(value) if whole else float(value)})

    return Axis(name=name, what=name, values=(), read=lambda settings: getattr(settings, name), change=change)
