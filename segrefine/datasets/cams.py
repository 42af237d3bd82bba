"""Class activation maps: for each image a `.npy` with a dictionary, as weakly supervised methods write them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.datasets.array_pickle import load_object, read_header
from segrefine.datasets.cam_scores import (
    BackgroundRule,
    check_activations,
    decide,
    enlarge,
    logits_to_prior,
    reduce,
    to_logits,
)
from segrefine.datasets.class_lists import classes_of
from segrefine.datasets.classes import ClassList
from segrefine.datasets.files import MaskFiles
from segrefine.datasets.items import Floats, Item, Key, MaskResult, Pixels
from segrefine.datasets.notation import AnyMask, Parts, Place
from segrefine.datasets.pickled_arrays import MOST_BYTES
from segrefine.datasets.tree import find_image
from segrefine.errors import MaskError
from segrefine.runtime.files.image import open_image, read_bytes
from segrefine.runtime.files.output import write_whole

KEYS = "keys"
MAPS = {"attn_highres": "power:1", "high_res": "0.15", "cam": "0.15"}
"""Entries that hold a map for each key, and the background rule that the methods which write them use."""
LOGITS = ("msc_segs", "msc_seg", "segs", "seg", "logits")
"""Entries that hold a score for each class and the background."""
_BY_CLASS = "0.4"
"""Background score for dictionaries of a map by class, where nobody names another."""
_MOST_VALUES = 2**30
_LOW = float(to_logits(np.full(1, 0.49, np.float32))[0])
"""Logit of a channel that does not have a pixel, at most."""
_KNOWN = f"expected {KEYS!r} with {' or '.join(MAPS)}; {' or '.join(LOGITS)}; or a map by class index"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Content:
    """Content of one image's dictionary.

    Attributes:
        entries: the dictionary.
        used: the entry that is read; None where the dictionary itself has a map by class.
        keys: index of each map's class; of logits of each channel, 0 for the background.
        maps: (K, h, w) as stored.
        is_logits: whether they are scores without bounds, the background's among them.
    """

    entries: dict[Any, Any]
    used: str | None
    keys: Sequence[int]
    maps: NDArray[Any]
    is_logits: bool = False


class Cams(MaskFiles):
    """A dictionary in a `.npy`: maps with `keys`, logits of all classes, or a map by class index."""

    title = "CAM"
    described = "class activation maps"
    is_unmistakable = True
    suffixes = (".npy",)
    options = ("classes", "background", "key_offset", "maps")

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._classes: ClassList = classes_of(place)
        options = place.options
        self._offset = min(self._classes.names) if options.key_offset is None else options.key_offset
        self._rule = BackgroundRule.parse(options.background) if options.background else None

    @classmethod
    def detect(cls, place: Place) -> bool:
        """Return whether the first `.npy` holds an object."""
        first = next((file for file in place.files if file.lower().endswith(".npy")), None)
        return first is not None and _holds_object(place.masks / first)

    def read_files(self, item: Item, files: Mapping[str, Path], image: Pixels | None) -> Parts:
        """Read the maps of the classes of an image, at its size."""
        [(file, path)] = files.items()
        content = self._load(path, file)
        size = self._size_of(item, content) if image is None else (image.shape[0], image.shape[1])
        names = [self._name_of(index, file) for index in content.keys]
        prior = self._prior(content, size, file)
        masks: dict[Key, AnyMask] = {}
        for name, own in zip(names, prior, strict=True):
            if name is not None and not (content.is_logits and own.max() <= 0.5):  # it is nowhere, as most classes are
                masks[name] = own
        return Parts(
            size=size,
            masks=masks,
            labels={name: str(name) for name in masks},
            prompts=self._classes.prompts,
            background=self._classes.background,
        )

    def _load(self, path: Path, name: str) -> _Content:
        if path.stat().st_size > MOST_BYTES:
            raise MaskError(
                subject=name,
                expected=f"at most {MOST_BYTES} bytes",
                got=path.stat().st_size,
                hint="save smaller maps, or in half precision",
            )
        try:
            entries = load_object(read_bytes(path))
        except MaskError as error:
            raise error.about(name) from error
        if not isinstance(entries, dict):
            raise MaskError(subject=name, expected="a dictionary", got=type(entries).__name__, hint=_KNOWN)
        return self._find_maps(entries, name)

    def _find_maps(self, entries: dict[Any, Any], name: str) -> _Content:
        wanted = self.place.options.maps
        known = [wanted] if wanted else [*MAPS, *LOGITS]
        used = next((each for each in known if each in entries), None)
        if used is not None and (used in MAPS or KEYS in entries):
            keys = _whole_numbers(entries.get(KEYS), name)
            maps = _array(entries[used], name)
            if maps.ndim != 3 or len(maps) != len(keys):
                shape = f"{used} of the shape ({len(keys)}, height, width)"
                raise MaskError(subject=name, expected=shape, got=maps.shape, hint=f"one map for each of the {KEYS}")
            return self._content(entries, used, [key + self._offset for key in keys], maps, name)
        if used is not None:
            logits = _array(entries[used], name)
            logits = logits[0] if logits.ndim == 4 and len(logits) == 1 else logits
            has_background = self._classes.background is not None
            expected = len(self._classes.names) + has_background
            if logits.ndim != 3 or len(logits) != expected or logits.dtype.kind != "f":
                raise MaskError(
                    subject=name,
                    expected=f"{used} of the shape ({expected}, height, width)",
                    got=logits.shape,
                    hint="--classes names the classes of the channels, the background first",
                )
            indices = [*([0] if has_background else []), *sorted(self._classes.names)]
            return _Content(entries=entries, used=used, keys=indices, maps=logits, is_logits=True)
        if entries and not wanted and all(type(key) is int for key in entries):
            arrays = [_array(value, name) for value in entries.values()]
            if any(each.ndim != 2 or each.shape != arrays[0].shape for each in arrays):
                raise MaskError(
                    "the maps of its classes have several shapes", subject=name, hint="save maps of one size"
                )
            keys = [key + self._offset for key in entries]
            return self._content(entries, None, keys, np.stack(arrays), name)
        shown = ", ".join(repr(key)[:30] for key in list(entries)[:6]) or "nothing"
        raise MaskError("it holds no maps that are known", subject=name, got=f"a dictionary of {shown}", hint=_KNOWN)

    def _content(
        self, entries: dict[Any, Any], used: str | None, keys: list[int], maps: NDArray[Any], name: str
    ) -> _Content:
        if len(set(keys)) < len(keys):
            raise MaskError("a key comes twice", subject=name, hint="save one map for each class")
        for key in keys:
            self._name_of(key, name)
        return _Content(entries=entries, used=used, keys=keys, maps=maps)

    def _name_of(self, index: int, file: str) -> str | None:
        """The name of a class; None for the background."""
        if index == 0 and self._classes.background is not None:
            return None
        if index not in self._classes.names:
            message = f"class {index} is not among the {len(self._classes.names)} of {self._classes.origin}"
            hint = "--classes names the list, --key-offset what is added to the keys"
            raise MaskError(message, subject=file, hint=hint)
        return self._classes.names[index]

    def _prior(self, content: _Content, size: tuple[int, int], name: str) -> Floats:
        if len(content.keys) * size[0] * size[1] > _MOST_VALUES:
            got = f"{len(content.keys)} maps of {size[1]}×{size[0]} pixels"
            raise MaskError(
                subject=name, expected=f"at most {_MOST_VALUES} values", got=got, hint="scale the image down"
            )
        if content.is_logits:
            logits = content.maps.astype(np.float32)
            if not np.isfinite(logits).all():
                raise MaskError(f"{content.used} holds numbers that are not finite", subject=name, hint="save it again")
            return logits_to_prior(enlarge(logits, size, name).astype(np.float32))
        if not content.keys:
            return np.zeros((0, *size), np.float32)
        return self._rule_for(content).to_prior(enlarge(check_activations(content.maps, name), size, name))

    def _rule_for(self, content: _Content) -> BackgroundRule:
        return self._rule or BackgroundRule.parse(MAPS.get(content.used or "", _BY_CLASS))

    def _size_of(self, item: Item, content: _Content) -> tuple[int, int]:
        """The size of the image, or of its maps where the image is not there."""
        images = self.place.images
        found = find_image(images, item.name) if images else None
        if found is None:
            return content.maps.shape[1], content.maps.shape[2]
        width, height = open_image(read_bytes(found), str(found)).size
        return height, width

    def write_file(self, file: str, source: Path, target: Path, results: Mapping[Key, MaskResult]) -> None:
        """Write the dictionary with refined maps, in the type that they had, at the size of the image.

        The method's own rule gives the refined masks. An entry of smaller maps gets means of the refined ones.
        """
        content = self._load(source, file)
        size = next(iter(results.values())).mask.shape
        prior = self._prior(content, (size[0], size[1]), file)
        names = [self._name_of(index, file) for index in content.keys]
        masks = np.zeros(prior.shape, np.bool_)
        for place, name in enumerate(names):
            if name is not None and name in results:
                prior[place] = results[name].probability
                masks[place] = results[name].mask
        if content.is_logits:
            logits = enlarge(content.maps.astype(np.float32), (size[0], size[1]), file).copy()
            if self._classes.background is not None:  # it has the pixels that no class claims
                logits[0] = logits.max(0) + 1
            refined = _refined_logits(logits, prior, masks, np.array([name in results for name in names]))
        else:
            refined = self._rule_for(content).to_maps(decide(prior, _only_winners(prior, masks)))
        write_whole(target, _dump(_replace(content, refined)))


def _only_winners(prior: Floats, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Masks, bool (K, H, W), of which no two have one pixel: the more probable class has it."""
    winner = np.where(masks, prior, -1).argmax(0)
    return np.asarray(masks & (np.arange(len(masks))[:, None, None] == winner))


def _refined_logits(logits: Floats, prior: Floats, masks: NDArray[np.bool_], refined: NDArray[np.bool_]) -> Floats:
    """Logits (C, H, W) whose highest channel is the refined class, or at pixels of none what is highest in `logits`.

    Args:
        logits: (C, H, W), the highest of which decides at the pixels that no class claims.
        prior: probability of each channel after refining.
        masks: the refined masks, bool of the same shape.
        refined: which channels were refined, bool (C,).
    """
    owned = _only_winners(prior, masks)
    below: Floats = logits - logits.max(0)
    written: Floats = np.minimum(below, np.float32(_LOW))
    written[refined] = to_logits(decide(prior, owned))[refined]
    written[(below == 0) & ~owned.any(0)] = 0
    return written


def _replace(content: _Content, refined: Floats) -> dict[Any, Any]:
    """The dictionary with refined maps in place of those that it had, in their types."""
    entries = dict(content.entries)
    if content.used is None:
        return {key: own.astype(entries[key].dtype) for key, own in zip(entries, refined, strict=True)}
    for name in {content.used, *(LOGITS if content.is_logits else MAPS)}:
        old = entries.get(name)
        if not isinstance(old, np.ndarray) or old.ndim < 3 or old.shape[-3] != len(refined):
            continue
        is_reduced = name != content.used and old.shape[-2:] != refined.shape[-2:]
        new = reduce(refined, (old.shape[-2], old.shape[-1])) if is_reduced else refined
        entries[name] = (new[None] if old.ndim == 4 else new).astype(old.dtype)
    return entries


def _dump(entries: dict[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(entries, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _holds_object(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            _, dtype = read_header(io.BytesIO(stream.read(4096)))
    except (OSError, ValueError):  # reading the file says so
        return False
    return dtype == np.dtype("O")


def _array(value: Any, name: str) -> NDArray[Any]:
    if not isinstance(value, np.ndarray):
        raise MaskError(subject=name, expected="an array of maps", got=type(value).__name__, hint=_KNOWN)
    return value


def _whole_numbers(value: Any, name: str) -> list[int]:
    """The keys of maps: an array or a list of whole numbers."""
    keys = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
    if not isinstance(keys, list) or not all(type(key) is int and abs(key) < 2**31 for key in keys):
        raise MaskError(subject=name, expected=f"{KEYS!r} as whole numbers", hint="one class index for each map")
    return keys
