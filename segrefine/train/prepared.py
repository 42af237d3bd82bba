"""Scenes on disk at training size: every image is read and checked once, before the first step."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from segrefine.errors import MaskError, SegrefineError
from segrefine.runtime.files.output import write_whole
from segrefine.runtime.words.context import CaptionedPhrase
from segrefine.storage import output_errors
from segrefine.train.scenes import Region, TrainingScene, resize_scene
from segrefine.train.sources import SourceSpec

INDEX = "index.json"
_FORMAT = 2
"""Number of the layout of stored scenes. Scenes of another layout are read from the data again."""
_MARGIN = 2.25
"""Longer side of a stored scene, in sides of a training image: crops stay sharp."""
_BALANCE = 0.5
"""Classes are drawn by this power of how many images have them: rare ones more often than they come."""
_SHOWN = 3
"""Broken images that a message names."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The scenes of one data set, on disk.

    Attributes:
        folder: where they are stored.
        weight: how often the data set is drawn, relative to others.
        scenes: name, labels and phrases of each scene.
        problems: name, message and hint of each image that cannot be used.
    """

    folder: Path
    weight: float
    scenes: Sequence[dict[str, Any]]
    problems: Sequence[dict[str, str]]

    @property
    def labels(self) -> Counter[str]:
        """Count the images that have each class."""
        return Counter(label for scene in self.scenes for label in scene["labels"])

    def read(self, number: int) -> TrainingScene:
        """A stored scene, by its place in `scenes`."""
        return load_scene(self.folder / f"{self.scenes[number]['file']}.npz")


def prepare(spec: SourceSpec, cache: Path, side: int, tell: Callable[[str, float | None], None]) -> Prepared:
    """Read a data set and store its scenes; those that are stored already are not read again.

    Args:
        spec: the data set.
        cache: folder of all stored scenes.
        side: longer side of a training image in pixels.
        tell: takes a line of progress, and the share that is done.

    Raises:
        MaskError: no image can be used.
        OutputError: the disk is full.
    """
    longest = round(_MARGIN * side)
    words = [_FORMAT, str(spec.place.resolve()), str(spec.images), longest, *spec.part.describe()]
    key = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
    folder = cache / key
    if (folder / INDEX).is_file():
        return _checked(spec, Prepared(folder=folder, weight=spec.weight, **json.loads((folder / INDEX).read_text())))
    source, scenes, problems = spec.open(), list[dict[str, Any]](), list[dict[str, str]]()
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(source.names):
        tell(f"reading {spec.place.name}", number / len(source.names))
        try:
            scene = _shrink(source.read(number), longest)
            if not scene.regions:
                continue
            store_scene(folder / f"{number}.npz", scene)
            scenes.append({"name": name, "file": number, **_describe(scene)})
        except SegrefineError as error:
            if isinstance(error, OSError):
                raise
            problems.append({"name": name, "message": str(error), "hint": error.hint or ""})
    content = {"scenes": scenes, "problems": problems}
    prepared = _checked(spec, Prepared(folder=folder, weight=spec.weight, scenes=scenes, problems=problems))
    write_whole(folder / INDEX, json.dumps(content).encode())
    return prepared


def _checked(spec: SourceSpec, prepared: Prepared) -> Prepared:
    """The data set, if it has a scene.

    Raises:
        MaskError: it has none.
    """
    if not prepared.scenes:
        first = prepared.problems[0] if prepared.problems else None
        reason = f"; the first problem: {first['name']}: {first['message']}" if first else ": no image has a mask"
        hint = first["hint"] if first and first["hint"] else "segrefine batch reads the same notations: docs/scale.md"
        raise MaskError(f"{spec.place} has no image that can be trained on{reason}", hint=hint)
    return prepared


def describe_problems(prepared: Prepared) -> str | None:
    """A line on the images that cannot be used; None where there is none."""
    if not prepared.problems:
        return None
    named = "; ".join(f"{each['name']}: {each['message']}" for each in prepared.problems[:_SHOWN])
    return f"{len(prepared.problems)} images cannot be used and are left out; {named}"


def _describe(scene: TrainingScene) -> dict[str, list[str]]:
    """The labels and phrases of a scene, each once."""
    labels = {region.label for region in scene.regions if region.label}
    return {"labels": sorted(labels), "phrases": sorted({text for each in scene.regions for text in each.phrases})}


def _shrink(scene: TrainingScene, longest: int) -> TrainingScene:
    scale = min(1.0, longest / max(scene.size))
    height, width = (max(1, round(side * scale)) for side in scene.size)
    small = resize_scene(scene, height, width)
    return replace(small, regions=tuple(region for region in small.regions if region.mask.any()))


def store_scene(file: Path, scene: TrainingScene) -> None:
    """Write a scene to an `.npz` file."""
    masks = np.stack([scene.ignored, *(region.mask for region in scene.regions)])
    described = [
        {
            "label": region.label,
            "phrases": region.phrases,
            "captions": [
                (text.caption, text.start) if isinstance(text, CaptionedPhrase) else None for text in region.phrases
            ],
            "single": region.single,
        }
        for region in scene.regions
    ]
    with output_errors(file), file.open("wb") as opened:
        np.savez(opened, image=scene.image, masks=np.packbits(masks, axis=None), about=np.array(json.dumps(described)))


def load_scene(file: Path) -> TrainingScene:
    """A scene that `store_scene` wrote."""
    with np.load(file) as stored:
        image, packed, described = stored["image"], stored["masks"], json.loads(str(stored["about"]))
    shape = (1 + len(described), *image.shape[:2])
    masks = np.unpackbits(packed, count=int(np.prod(shape))).reshape(shape).astype(np.bool_)
    regions = tuple(
        Region(mask=mask, label=each["label"], phrases=_phrases_of(each), single=each["single"])
        for mask, each in zip(masks[1:], described, strict=True)
    )
    return TrainingScene(image=image, regions=regions, ignored=masks[0], known=frozenset())


def _phrases_of(described: Mapping[str, Any]) -> tuple[str, ...]:
    """The phrases of a stored region; those of a caption know it."""
    captions = described.get("captions") or [None] * len(described["phrases"])
    pairs = zip(described["phrases"], captions, strict=True)
    return tuple(text if caption is None else CaptionedPhrase(text, *caption) for text, caption in pairs)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several data sets that are drawn from together.

    Attributes:
        parts: the data sets.
        closed_world: whether a class of any of them is known in all of them.
    """

    parts: Sequence[Prepared]
    closed_world: bool

    @cached_property
    def _known(self) -> list[frozenset[str]]:
        """The classes that are annotated in each data set."""
        own = [frozenset(part.labels) for part in self.parts]
        every = frozenset[str]().union(*own)
        return [every if self.closed_world else names for names in own]

    @cached_property
    def _rows(self) -> list[dict[str, list[int]]]:
        """The images of each class, for each data set; "" for images that only phrases describe."""
        rows = []
        for part in self.parts:
            found: dict[str, list[int]] = {}
            for number, scene in enumerate(part.scenes):
                for label in scene["labels"] or [""]:
                    found.setdefault(label, []).append(number)
            rows.append(found)
        return rows

    @cached_property
    def _shares(self) -> list[dict[str, float]]:
        """Return each class's share of draws for an image, for each data set; a data set's shares sum to 1."""
        shares = []
        for rows in self._rows:
            counts = {label: len(found) ** _BALANCE for label, found in rows.items()}
            whole = sum(counts.values())
            shares.append({label: count / whole for label, count in counts.items()})
        return shares

    @cached_property
    def shares(self) -> dict[str, float]:
        """The names of all classes, sorted, with how often a scene is drawn for each."""
        whole = sum(part.weight for part in self.parts)
        return {
            label: sum(part.weight / whole * own.get(label, 0.0)
                       for part, own in zip(self.parts, self._shares, strict=True))
            for label in self.classes
        }  # fmt: skip

    @property
    def classes(self) -> list[str]:
        """The names of all classes, sorted."""
        return sorted({label for part in self.parts for label in part.labels})

    def draw(self, rng: Generator) -> TrainingScene:
        """Any scene: first the data set by its weight, then a class, then an image that has it."""
        weights = np.array([part.weight for part in self.parts])
        number = int(rng.choice(len(self.parts), p=weights / weights.sum()))
        shares = self._shares[number]
        found = self._rows[number][list(shares)[rng.choice(len(shares), p=list(shares.values()))]]
        return self.read(number, found[rng.integers(len(found))])

    def read(self, part: int, number: int) -> TrainingScene:
        """A scene of a data set."""
        return replace(self.parts[part].read(number), known=self._known[part])
