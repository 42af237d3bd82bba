"""Phrases for a demo scene: for one object, several, the background, or nothing there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.demo.captions import NAMES, PLURALS
from training.demo.scenes import DemoScene

PhraseKind = Literal["single", "colour", "relation", "size", "side", "plural", "several", "background", "absent"]
SHARES: dict[PhraseKind, float] = {
    "single": 0.20, "colour": 0.20, "relation": 0.24, "size": 0.05, "side": 0.05, "plural": 0.08, "several": 0.07,
    "background": 0.03, "absent": 0.08,
}  # fmt: skip
"""How often training draws each kind, where the scene has it."""

_HUES = ((0, 15, "red"), (15, 38, "orange"), (38, 68, "yellow"), (75, 165, "green"), (185, 255, "blue"),
         (258, 295, "purple"), (298, 335, "pink"), (345, 360, "red"))  # fmt: skip
_CLEAR_GAP, _CLEAR_RATIO, _LEAST_AREA = 8.0, 1.5, 30  # pixels, ratio of areas, pixels, from which people would agree


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """Words, and what they name in one scene.

    Attributes:
        text: such as "the red car".
        kind: how the words pick their object.
        objects: numbers of the objects named, as in `DemoScene.instances`; 0 is the background, none is nothing.
    """

    text: str
    kind: PhraseKind
    objects: tuple[int, ...]

    def mask(self, instances: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return the mask of the phrase, bool (H, W)."""
        return np.isin(instances, self.objects)


def list_phrases(scene: DemoScene) -> dict[PhraseKind, list[Phrase]]:
    """All phrases that fit the scene without doubt, by kind, and for "absent" those that fit nothing in it."""
    listed: dict[PhraseKind, list[Phrase]] = {kind: [] for kind in get_args(PhraseKind)}
    for phrase in _phrases(scene):
        listed[phrase.kind].append(phrase)
    return {kind: phrases for kind, phrases in listed.items() if phrases}


def draw_phrase(rng: Generator, scene: DemoScene) -> Phrase:
    """One of the scene's phrases: first the kind, by `SHARES`, then evenly; its article varies."""
    listed = list_phrases(scene)
    shares = np.array([SHARES[kind] for kind in listed])
    kind = list(listed)[rng.choice(len(listed), p=shares / shares.sum())]
    phrase = listed[kind][rng.integers(len(listed[kind]))]
    return Phrase(text=_vary(rng, phrase.text), kind=phrase.kind, objects=phrase.objects)


def colour_name(rgb: NDArray[np.uint8]) -> str | None:
    """The colour that most of the pixels (n, 3) have, None where no name fits at least six in ten of them."""
    hue, saturation, value = cv2.cvtColor(np.ascontiguousarray(rgb[None]), cv2.COLOR_RGB2HSV)[0].T.astype(np.float32)
    vivid = (saturation > 70) & (value > 70)
    shares: dict[str, float] = defaultdict(float)
    for low, high, name in _HUES:
        inside = vivid & (2 * hue >= low) & (2 * hue < high)
        dark = inside & (value < 150) if name == "orange" else np.zeros_like(inside)
        shares[name] += float((inside & ~dark).mean())
        shares["brown"] += float(dark.mean())
    shares["black"] = float((value < 60).mean())
    shares["white"] = float(((saturation < 40) & (value > 200)).mean())
    name = max(shares, key=lambda each: shares[each])
    return name if shares[name] >= 0.6 else None


def _phrases(scene: DemoScene) -> Iterator[Phrase]:
    areas = dict(enumerate(np.bincount(scene.instances.ravel(), minlength=len(scene.classes) + 1).tolist()))
    alike: dict[str, list[int]] = {}
    for number, index in enumerate(scene.classes, 1):
        alike.setdefault(NAMES[index], []).append(number)
    # of a class of which something can hardly be seen nothing is asked, neither as there nor as absent
    clear = {name: numbers for name, numbers in alike.items() if min(areas[n] for n in numbers) >= _LEAST_AREA}
    seen = [number for numbers in clear.values() for number in numbers]
    colours = {number: colour_name(scene.image[scene.instances == number]) for number in seen}
    places = {number: _centre(scene.instances == number) for number in seen}
    yield Phrase(text="the background", kind="background", objects=(0,))
    yield from _absent([name for name in NAMES if name not in alike], clear, colours)
    for name, numbers in clear.items():
        if len(numbers) == 1:
            yield Phrase(text=f"the {name}", kind="single", objects=tuple(numbers))
        else:
            yield Phrase(text=f"all {PLURALS[name]}", kind="plural", objects=tuple(numbers))
            yield from _superlatives(name, numbers, places, areas)
        yield from _coloured(name, numbers, colours)
    for first, second in permutations(clear, 2):
        if len(clear[second]) == 1:
            yield from _related(first, clear[first], second, places[clear[second][0]], places)
    for first, second in combinations(clear, 2):
        if len(clear[first]) == len(clear[second]) == 1:
            yield Phrase(text=f"the {first} and the {second}", kind="several", objects=(*clear[first], *clear[second]))


def _absent(missing: list[str], clear: dict[str, list[int]], colours: dict[int, str | None]) -> Iterator[Phrase]:
    """Classes that are not in the scene, and colours that none of a class has, where all of its colours are clear."""
    for name in missing:
        yield Phrase(text=f"the {name}", kind="absent", objects=())
    for name, numbers in clear.items():
        named = {colours[number] for number in numbers}
        for colour in ("red", "green", "blue", "purple"):
            if None not in named and colour not in named:
                yield Phrase(text=f"the {colour} {name}", kind="absent", objects=())


def _coloured(name: str, numbers: list[int], colours: dict[int, str | None]) -> Iterator[Phrase]:
    """The one object of a class with a colour; others of the class must have a clear colour too, and another."""
    for number in numbers:
        others = [colours[other] for other in numbers if other != number]
        if (colour := colours[number]) and all(other and other != colour for other in others):
            yield Phrase(text=f"the {colour} {name}", kind="colour", objects=(number,))


def _superlatives(
    name: str, numbers: list[int], places: dict[int, NDArray[np.float64]], areas: dict[int, float]
) -> Iterator[Phrase]:
    """The big, small, left and right one of several objects of a class."""
    by_area, by_x = sorted(numbers, key=lambda n: areas[n]), sorted(numbers, key=lambda n: places[n][0])
    if areas[by_area[-1]] > _CLEAR_RATIO * areas[by_area[-2]]:
        yield Phrase(text=f"the big {name}", kind="size", objects=(by_area[-1],))
    if areas[by_area[1]] > _CLEAR_RATIO * areas[by_area[0]]:
        yield Phrase(text=f"the small {name}", kind="size", objects=(by_area[0],))
    if places[by_x[1]][0] - places[by_x[0]][0] > _CLEAR_GAP:
        yield Phrase(text=f"the left {name}", kind="side", objects=(by_x[0],))
    if places[by_x[-1]][0] - places[by_x[-2]][0] > _CLEAR_GAP:
        yield Phrase(text=f"the right {name}", kind="side", objects=(by_x[-1],))


def _related(
    name: str, numbers: list[int], other: str, beside: NDArray[np.float64], places: dict[int, NDArray[np.float64]]
) -> Iterator[Phrase]:
    """The one object of a class on some side of another object; the others of the class are clearly elsewhere."""
    sides = {number: _side(places[number] - beside) for number in numbers}
    if None in sides.values():
        return
    for number, side in sides.items():
        if list(sides.values()).count(side) == 1:
            yield Phrase(text=f"the {name} {side} the {other}", kind="relation", objects=(number,))


def _side(offset: NDArray[np.float64]) -> str | None:
    """Return the side of `offset` (x, y) in pixels; None if it is too near or in between."""
    x, y = offset
    if max(abs(x), abs(y)) < _CLEAR_GAP or _CLEAR_RATIO * min(abs(x), abs(y)) > max(abs(x), abs(y)):
        return None
    if abs(x) > abs(y):
        return "left of" if x < 0 else "right of"
    return "above" if y < 0 else "below"


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean position (x, y) of a mask's pixels."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


def _vary(rng: Generator, text: str) -> str:
    """The phrase with "the" or "all" at its beginning kept, left out, or replaced by another word that fits."""
    article, _, rest = text.partition(" ")
    chance = rng.random()
    if rest == "background" or " and " in rest or chance < 0.5:
        return text
    if chance < 0.7:
        return rest
    if article == "all":
        return f"the {rest}"
    return f"{'an' if rest[0] in 'aeiou' else 'a'} {rest}"
