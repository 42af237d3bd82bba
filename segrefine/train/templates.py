"""Phrases for the regions of a scene: templates, and the region each phrase names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segrefine.runtime.words.context import CaptionedPhrase
from segrefine.train.scenes import Mask, Region, TrainingScene, union

_CLEAR_GAP = 0.12
"""Distance between two centres, as a share of the longer side, from which people agree on left and right."""
_CLEAR_RATIO = 1.5
"""Ratio between the distances along the two axes from which people agree on left or above."""
_VISIBLE = 0.006
"""Share of the image that a region must cover before a phrase asks for it."""
_SHARES = {"class": 0.42, "own": 0.30, "place": 0.12, "union": 0.07, "background": 0.03, "absent": 0.20}
_PLURALS = {
    "sheep": "sheep", "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice",
    "knife": "knives", "skis": "skis", "scissors": "scissors", "broccoli": "broccoli", "deer": "deer", "fish": "fish",
    "cactus": "cacti", "leaf": "leaves", "wolf": "wolves", "goose": "geese", "foot": "feet", "shelf": "shelves",
}  # fmt: skip
_MIRRORED = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}


@dataclass(frozen=True, kw_only=True, eq=False)
class AskedPhrase:
    """A phrase, and what it names.

    Attributes:
        text: the phrase.
        mask: bool (H, W); empty where nothing in the image is meant.
        kind: a key of the template table.
        weight: how often it is drawn, relative to other phrases of its kind.
    """

    text: str
    mask: Mask
    kind: str
    weight: float = 1.0


def plural(name: str) -> str:
    """The plural of a class name: "wine glass" → "wine glasses"."""
    head, space, last = name.rpartition(" ")
    if last in _PLURALS:
        return f"{head}{space}{_PLURALS[last]}"
    if re.search(r"(s|x|z|ch|sh)$", last):
        return f"{name}es"
    if re.search(r"[^aeiou]y$", last):
        return f"{name[:-1]}ies"
    return f"{name}s"


def mirror_phrase(text: str) -> str:
    """The phrase after the image was flipped: left and right change places, in its caption too."""
    if isinstance(text, CaptionedPhrase):
        end = text.start + len(text)
        before, own, after = (
            mirror_phrase(part) for part in (text.caption[: text.start], str(text), text.caption[end:])
        )
        return CaptionedPhrase(own, before + own + after, len(before))
    return re.sub(r"\b(left|right|Left|Right)\b", lambda found: _MIRRORED[found[1]], text)


def list_words(names: Sequence[str]) -> list[str]:
    """All words of class names and their plurals."""
    return sorted({word for name in names for form in (name, plural(name)) for word in form.lower().split()})


def draw_phrases(
    rng: Generator, scene: TrainingScene, count: int, classes: Mapping[str, float], fits: Callable[[str], bool]
) -> list[AskedPhrase]:
    """Phrases of one scene, different ones where the scene has enough.

    Args:
        rng: source of randomness.
        scene: the scene, after augmentation.
        count: how many phrases.
        classes: names of all classes of the data, with how often a scene is drawn for each. Absent classes are drawn
            as often: if rare words mostly named nothing, the model would learn from the word alone whether to find
            something.
        fits: whether the text encoders take a phrase as a whole. Others are not asked.
    """
    listed = {kind: [each for each in make(scene, classes) if fits(each.text)] for kind, make in TEMPLATES.items()}
    listed = {kind: found for kind, found in listed.items() if found}
    chosen: list[AskedPhrase] = []
    for _ in range(count):
        kinds = [kind for kind, found in listed.items() if found]
        if not kinds:
            chosen.append(
                chosen[-1] if chosen else AskedPhrase(text="", mask=np.zeros(scene.size, np.bool_), kind="absent")
            )
            continue
        shares = np.array([_SHARES[kind] for kind in kinds])
        found = listed[kinds[rng.choice(len(kinds), p=shares / shares.sum())]]
        weights = np.array([each.weight for each in found])
        asked = found.pop(int(rng.choice(len(found), p=weights / weights.sum())))
        text = asked.text if asked.kind == "own" else vary(rng, asked.text)
        chosen.append(replace(asked, text=text) if fits(text) else asked)
    return chosen


def vary(rng: Generator, text: str) -> str:
    """The phrase with another article, or none, where that names the same."""
    article, _, rest = text.partition(" ")
    chance = rng.random()
    if article not in ("the", "all") or " and " in rest or rest == "background" or chance < 0.5:
        return text
    if chance < 0.75 or article == "all":
        return rest
    return f"{'an' if rest[0] in 'aeiou' else 'a'} {rest}"


def _visible(scene: TrainingScene) -> dict[str, list[Region]]:
    """The regions by class, without the classes of which a region can hardly be seen."""
    found: dict[str, list[Region]] = {}
    for region in scene.regions:
        if region.label is not None:
            found.setdefault(region.label, []).append(region)
    least = _VISIBLE * scene.ignored.size
    return {label: regions for label, regions in found.items() if min(r.mask.sum() for r in regions) >= least}


def _of_classes(scene: TrainingScene, _: Mapping[str, float]) -> Iterator[AskedPhrase]:
    """Yield "the cat" where it is one object or nobody knows how many; "all cats" otherwise."""
    for label, regions in _visible(scene).items():
        mask = union((region.mask for region in regions), scene.size)
        if len(regions) > 1:
            yield AskedPhrase(text=f"all {plural(label)}", mask=mask, kind="class")
            continue
        yield AskedPhrase(text=f"the {label}", mask=mask, kind="class")
        if not regions[0].single:
            yield AskedPhrase(text=f"all {plural(label)}", mask=mask, kind="class")


def _own(scene: TrainingScene, _: Mapping[str, float]) -> Iterator[AskedPhrase]:
    """The phrases that the data set gives its regions."""
    for region in scene.regions:
        if region.mask.any():
            yield from (AskedPhrase(text=text, mask=region.mask, kind="own") for text in region.phrases)


def _places(scene: TrainingScene, _: Mapping[str, float]) -> Iterator[AskedPhrase]:
    """Yield "the left cat" and "the cat left of the dog", where people would agree."""
    visible = _visible(scene)
    for label, regions in visible.items():
        if len(regions) == 2 and (side := _side(_centre(regions[0].mask) - _centre(regions[1].mask))) in _BESIDE:
            words = _BESIDE if side == "left of" else _BESIDE[::-1]
            for word, region in zip(words, regions, strict=True):
                yield AskedPhrase(text=f"the {word.split()[0]} {label}", mask=region.mask, kind="place")
    alone = {label: regions[0] for label, regions in visible.items() if len(regions) == 1}
    for first, second in permutations(alone, 2):
        if side := _side(_centre(alone[first].mask) - _centre(alone[second].mask)):
            yield AskedPhrase(text=f"the {first} {side} the {second}", mask=alone[first].mask, kind="place")


def _unions(scene: TrainingScene, _: Mapping[str, float]) -> Iterator[AskedPhrase]:
    """Yield "the cat and the dog"."""
    visible = {label: regions for label, regions in _visible(scene).items() if len(regions) == 1}
    for first, second in combinations(visible, 2):
        mask = visible[first][0].mask | visible[second][0].mask
        yield AskedPhrase(text=f"the {first} and the {second}", mask=mask, kind="union")


def _background(scene: TrainingScene, classes: Mapping[str, float]) -> Iterator[AskedPhrase]:
    """Yield "the background", where every class of the data is annotated."""
    if classes and classes.keys() <= scene.known:
        mask = ~union((region.mask for region in scene.regions), scene.size) & ~scene.ignored
        yield AskedPhrase(text="the background", mask=mask, kind="background")


def _absent(scene: TrainingScene, classes: Mapping[str, float]) -> Iterator[AskedPhrase]:
    """Yield the classes that are nowhere in the image."""
    present = {region.label for region in scene.regions if region.mask.any()}
    for name, weight in classes.items():
        if name in scene.known and name not in present:
            yield AskedPhrase(text=f"the {name}", mask=np.zeros(scene.size, np.bool_), kind="absent", weight=weight)


TEMPLATES: dict[str, Callable[[TrainingScene, Mapping[str, float]], Iterator[AskedPhrase]]] = {
    "class": _of_classes, "own": _own, "place": _places, "union": _unions, "background": _background,
    "absent": _absent,
}  # fmt: skip
"""What lists the phrases of each kind. A new kind is a function, its line here, and its share."""
_BESIDE = ("left of", "right of")


def _side(offset: NDArray[np.float64]) -> str | None:
    """Return the side of a centre at `offset` (x, y), in longer sides; None if people would not agree."""
    x, y = offset.round(9)  # a mirrored scene gives the same answer, whatever its centres were rounded to
    if max(abs(x), abs(y)) < _CLEAR_GAP or _CLEAR_RATIO * min(abs(x), abs(y)) > max(abs(x), abs(y)):
        return None
    if abs(x) > abs(y):
        return "left of" if x < 0 else "right of"
    return "above" if y < 0 else "below"


def _centre(mask: Mask) -> NDArray[np.float64]:
    """The mean position (x, y) of a mask's pixels, in longer sides."""
    rows, columns = np.nonzero(mask)
    centre: NDArray[np.float64] = np.array([columns.mean(), rows.mean()]) / max(mask.shape)
    return centre
