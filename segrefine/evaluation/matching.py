"""The masks of an image under keys that several data sets share, so that each finds its partner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from segrefine.datasets.coco_file import key_of
from segrefine.datasets.items import Key
from segrefine.datasets.notation import Parts
from segrefine.datasets.polygons import Mask
from segrefine.runtime.files.mask import CoarseMask


@dataclass(frozen=True, kw_only=True, eq=False)
class Matched:
    """The hard masks of one image, as they are compared.

    Attributes:
        size: (H, W) of the image.
        masks: bool (H, W), by the keys that all compared data sets share.
        labels: what the masks show, by the same keys; without those of which nobody says.
        ignored: bool (H, W), pixels that are of no class and do not count; None for none.
        background: name of the class of all other pixels; None where that is no class.
        unusable: a sentence for each annotation without a usable mask, by its key; these are not compared.
        groups: names of the groups that a mask counts in, by its key.
    """

    size: tuple[int, int]
    masks: Mapping[str, Mask]
    labels: Mapping[str, str] = field(default_factory=dict)
    ignored: Mask | None = None
    background: str | None = None
    unusable: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)


def by_label(parts: Parts) -> Matched:
    """The masks of an image, all of one label together; a mask without a label keeps its key."""
    names = {key: parts.labels.get(key, str(key)) for key in parts.masks}
    return _match(parts, names | {key: f"annotation {parts.numbers.get(key, key)}" for key in parts.unusable})


def by_number(parts: Parts) -> Matched:
    """The masks of an image, each under the id that its data set gives it."""
    return _match(parts, {key: str(key_of(number)) for key, number in parts.numbers.items()})


def _match(parts: Parts, names: Mapping[Key, str]) -> Matched:
    masks: dict[str, Mask] = {}
    for key, mask in parts.masks.items():
        probability = mask.probability if isinstance(mask, CoarseMask) else mask
        hard = probability > 0.5
        masks[names[key]] = masks[names[key]] | hard if names[key] in masks else hard
    return Matched(
        size=parts.size,
        masks=masks,
        labels={names[key]: label for key, label in parts.labels.items() if key in parts.masks},
        ignored=parts.ignored,
        background=parts.background,
        unusable={names[key]: why for key, why in parts.unusable.items()},
        groups={names[key]: groups for key, groups in parts.groups.items()},
    )
