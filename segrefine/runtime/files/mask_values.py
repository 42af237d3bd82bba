"""Meaning of the numbers in a mask's file: the probability of one object, or the indices of a label map.

Each reading rule stands here once. `docs/masks.md` has them as a table.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import MaskError
from segrefine.runtime.files.output import voc_colours
from segrefine.runtime.files.stored import Stored, colour_error

IGNORED = 255
"""Index of pixels that belong to no class."""

LARGEST_INDEX = 65535
_FEW = 32
"""Up to this many distinct values may be class indices. Soft masks of usual sizes have more."""

_ONE_OBJECT = "save one object as 0 and 255, probabilities as a float .npy; label maps need classes.json"


def to_probability(stored: Stored) -> NDArray[np.float32]:
    """The probability of foreground, float32 (H, W) in [0, 1], of the mask of one object.

    Raises:
        MaskError: the file is no such mask, or can be read in two ways; the message names the values.
    """
    if stored.values.ndim == 3 and stored.alpha is None:
        raise colour_error(stored.mode)
    if stored.alpha is None:
        return _read_opaque(stored)
    return _read_transparent(stored, stored.alpha)


def name_values(values: NDArray[Any]) -> str:
    """Distinct values in words, such as "0, 1 and 2", or "0, 1, 2, 3, 4, … 200 (35 values)"."""
    found = [f"{value:g}" if values.dtype.kind == "f" else str(int(value)) for value in np.unique(values)]
    if len(found) > 8:
        return f"{', '.join(found[:5])}, … {found[-1]} ({len(found)} values)"
    return " and ".join(filter(None, [", ".join(found[:-1]), found[-1]]))


def _read_opaque(stored: Stored) -> NDArray[np.float32]:
    if stored.palette is not None:
        return _read_palette(stored.values, stored.palette)
    kind = stored.values.dtype.kind
    if kind == "f":
        return _read_floats(stored.values)
    if kind == "b":
        return stored.values.astype(np.float32)
    if kind not in "ui":
        raise MaskError(expected="a mask of numbers", got=stored.values.dtype, hint="save it as float32, 0 to 1")
    full = stored.full or _full_of_array(stored.values)
    if stored.lossy:
        return _read_lossy(stored.values)
    return _read_levels(stored.values, full)


def _read_floats(values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Probabilities as they are; 0 and one number above 1 are a hard mask."""
    if not ((values >= 0) & (values <= 1)).all():
        found = np.unique(values[:2, :2]) if np.isnan(values).any() else np.unique(values)
        if len(found) == 2 and found[0] == 0 and found[1] > 1 and np.isfinite(found[1]):
            return (values > 0).astype(np.float32)
        got = "NaN" if np.isnan(values).any() else f"{values.min():g} to {values.max():g}"
        raise MaskError(expected="probabilities from 0 to 1", got=got, hint="scale the mask to [0, 1]")
    return values.astype(np.float32)


def _full_of_array(values: NDArray[np.integer[Any]]) -> int:
    """The level of white in an array: by its dtype for 8 and 16 bits, else by the largest value."""
    if values.dtype.itemsize <= 2 and values.dtype.kind == "u":
        return int(np.iinfo(values.dtype).max)
    return 255 if values.max() <= 255 else 65535


def _read_levels(values: NDArray[np.integer[Any]], full: int) -> NDArray[np.float32]:
    """Grey levels of a format that keeps them: a hard mask, or a soft one that cannot be class indices."""
    found = np.unique(values)
    lowest, highest = int(found[0]), int(found[-1])
    if len(found) == 1 and highest in (0, 1, full):
        return np.full(values.shape, highest > 0, np.float32)
    if len(found) == 2 and lowest == 0:  # whatever the other is
        return (values > 0).astype(np.float32)
    if lowest < 0 or highest > full or not _are_soft(found, full):
        raise MaskError(
            expected=f"0 and one other value, or soft levels from 0 to {full}",
            got=name_values(found),
            hint=f"are these class indices? {_ONE_OBJECT}",
        )
    return (values / full).astype(np.float32)


def _are_soft(found: NDArray[np.integer[Any]], full: int) -> bool:
    """Return whether distinct values, in rising order, are levels of a soft mask; False where they may be indices."""
    lowest, highest = int(found[0]), int(found[-1])
    if len(found) == 1 or full < 255:
        return False
    if len(found) == 2:
        return lowest <= full / 15 and highest >= full * 0.92  # black and white as video has them
    if highest <= full / 2:  # nothing is foreground: only many levels, of no shallower depth, are a faint mask
        return len(found) > _FEW and highest > 255 * (full > 255) and highest & (highest + 1) != 0
    if len(found) > _FEW:
        return True
    if full > 255:
        return highest >= full * 0.98 or not ((found > 0) & (found < 256)).any()
    is_between = (found >= full / 4) & (found <= full * 3 / 4)
    return lowest <= 5 and highest >= 250 and bool(is_between.any() or (found > full / 2).sum() > 1)


def _read_lossy(values: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Levels of a format that alters them: black and white with noise around both."""
    lowest, highest = int(values.min()), int(values.max())
    if lowest != highest and (highest < 192 or lowest > 127):
        if lowest == 0 and highest > 8 and len(np.unique(values)) == 2:
            return (values > 0).astype(np.float32)
        raise MaskError(
            expected="black and white, as far as JPEG keeps them",
            got=f"levels from {lowest} to {highest} of 255",
            hint="save the mask as a PNG, 0 and 255",
        )
    if lowest == highest and highest not in (0, 255):
        raise MaskError(
            expected="black and white", got=f"{highest} everywhere", hint="save the mask as a PNG, 0 and 255"
        )
    return (values / 255).astype(np.float32)


def _read_palette(indices: NDArray[np.integer[Any]], palette: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Levels where all colours in use are grey; else indices, of which 0 must be the background without doubt."""
    used = np.unique(indices)
    if int(used[-1]) >= len(palette):
        message = f"index {int(used[-1])} has no colour in the palette of {len(palette)}"
        raise MaskError(message, hint=_ONE_OBJECT)
    colours = palette[used]
    is_grey = np.ptp(colours.astype(np.int16), axis=1) == 0
    if is_grey.all():
        if len(used) > 1 and len(np.unique(colours[:, 0])) == 1:
            message = f"the palette shows the indices {name_values(used)} in one colour"
            raise MaskError(message, hint=_ONE_OBJECT)
        return _read_levels(palette[:, 0][indices], 255)
    if (used[0] == 0 or len(used) > 1) and not (used[0] == 0 and _is_background(colours, is_grey)):
        pairs = zip(used[:6].tolist(), colours[:6].tolist(), strict=True)
        seen = "; ".join(f"{index} is {tuple(colour)}" for index, colour in pairs)
        message = f"cannot tell the background of a colour palette: index {seen}"
        raise MaskError(message, hint=f"make the background black, at index 0. Or {_ONE_OBJECT}")
    return (indices > 0).astype(np.float32)


def _is_background(colours: NDArray[np.uint8], is_grey: NDArray[np.bool_]) -> bool:
    """Return whether the first colour in use, of index 0, is the background's: the only black, or the only grey."""
    if not colours[0].any():
        return bool(colours[1:].any(axis=1).all())
    return bool(is_grey[0] and not is_grey[1:].any())


def _read_transparent(stored: Stored, alpha: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Transparent is background. The opacity alone is the mask, unless visible pixels have levels of their own."""
    if not alpha.any():
        if stored.values.min() != stored.values.max():
            raise MaskError("every pixel of the mask is transparent", hint="save it without transparency")
        return np.zeros(alpha.shape, np.float32)
    if stored.palette is not None and _is_voc(stored.palette):
        return ((stored.values > 0) & (alpha > 0)).astype(np.float32)
    opacity = _read_opacity(alpha)
    levels = _visible_levels(stored, alpha)
    if levels is None:
        return opacity
    visible = np.unique(levels[alpha > 0])
    if visible.tolist() == [0, 1] and ((alpha == 0) | (alpha == 255)).all():  # drawn in black and white
        return opacity * levels
    seen = name_values(np.round(visible * (stored.full or 255)).astype(int))
    message = f"the mask can be read in two ways: by its transparency, or by the visible levels {seen}"
    raise MaskError(message, hint="save the mask as one channel, without transparency")


def _read_opacity(alpha: NDArray[np.uint8]) -> NDArray[np.float32]:
    found = np.unique(alpha)
    if len(found) == 2 and found[0] == 0:  # whatever the other is
        return (alpha > 0).astype(np.float32)
    if found[0] > 25 or found[-1] <= 127:
        raise MaskError(
            expected="a transparent background",
            got=f"an opacity of {name_values(found)} of 255",
            hint="save the mask as one channel, 0 and 255",
        )
    return (alpha / 255).astype(np.float32)


def _visible_levels(stored: Stored, alpha: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """The pixels' levels in [0, 1]; None where the visible ones have colours, or all the same level.

    Raises:
        MaskError: it may be a label map, whose index 0 is the background and is not transparent.
    """
    values, full = stored.values, stored.full or 255
    if values.ndim == 3:
        return None
    if stored.palette is not None:
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(stored.palette)] = stored.palette[:256]
        used = np.unique(values[alpha > 0])
        if np.ptp(colours[used].astype(np.int16), axis=1).any():
            if used[0] == 0 and not colours[0].any():
                message = "the mask can be read in two ways: by its transparency, or as a label map"
                raise MaskError(message, hint="save the mask without a palette")
            return None
        values, full = colours[:, 0][values], 255
    visible = values[alpha > 0].astype(np.int32)
    noise = 24 if stored.lossy else full // 128
    return None if np.ptp(visible) <= noise else (values / full).astype(np.float32)


def _is_voc(palette: NDArray[np.uint8]) -> bool:
    """Return whether a palette is PASCAL VOC's, so that the picture is a label map."""
    return len(palette) > 20 and np.array_equal(palette[:21], voc_colours(21))


def to_indices(
    stored: Stored, name: str, *, named: Collection[int] = (), ignored: Collection[int] = (IGNORED,)
) -> NDArray[np.int32]:
    """The indices of a label map, int32 (H, W), in an array of their own; transparent pixels are background.

    A palette of greys has two readings: by index and by grey level. The names tell which one is meant.

    Args:
        stored: what the file holds.
        name: what messages call the file.
        named: indices of the classes.
        ignored: indices of pixels that are of no class.

    Raises:
        MaskError: the file holds no indices, or can be read in two ways; the message names the values.
    """
    values = stored.values
    if values.ndim == 3 or stored.lossy:
        what = "colours" if values.ndim == 3 else "a format that alters indices"
        raise MaskError(
            subject=name,
            expected="a palette or grey label map",
            got=f"{what} ({stored.mode})",
            hint="save the indices as a palette PNG",
        )
    if values.dtype.kind not in "iub":
        raise MaskError(
            subject=name,
            expected="a label map of whole numbers (H, W)",
            got=f"{values.dtype} {values.shape}",
            hint="save the indices as a palette PNG; of a mask of one object, labels.json says what it shows",
        )
    if not 0 <= values.min() <= values.max() <= LARGEST_INDEX:
        raise MaskError(
            subject=name,
            expected=f"indices from 0 to {LARGEST_INDEX}",
            got=f"{values.min()} to {values.max()}",
            hint=f"{IGNORED} is of no class",
        )
    indices = values.astype(np.int32)
    if stored.palette is not None:
        indices = _choose_reading(indices, stored.palette, name, named, ignored)
    if stored.alpha is None:
        return indices
    if not np.isin(stored.alpha, (0, 255)).all():
        raise MaskError(
            subject=name,
            expected="opaque or transparent pixels",
            got=f"an opacity of {name_values(stored.alpha)} of 255",
            hint="save the indices as a palette PNG without transparency",
        )
    if 0 in named:
        message = "it has transparent pixels, which mean index 0, and index 0 is a class"
        raise MaskError(message, subject=name, hint="save the indices as a palette PNG without transparency")
    return np.where((stored.alpha == 0) & ~np.isin(indices, list(ignored)), 0, indices).astype(np.int32)


def _choose_reading(
    indices: NDArray[np.int32],
    palette: NDArray[np.uint8],
    name: str,
    named: Collection[int],
    ignored: Collection[int],
) -> NDArray[np.int32]:
    """The indices, or the grey levels that a program has turned into a palette: whichever are all named."""
    used = np.unique(indices)
    colours = palette[used[used < len(palette)]].astype(np.int32)
    if len(colours) < len(used) or np.ptp(colours, axis=1).any() or np.array_equal(colours[:, 0], used):
        return indices
    levels = colours[:, 0]
    as_indices, as_levels = (_are_classes(each.tolist(), named, ignored) for each in (used, levels))
    if as_indices and as_levels:
        message = f"it is a palette of greys: its indices are {name_values(used)}, its levels {name_values(levels)}"
        raise MaskError(message, subject=name, hint="save the indices as a grey PNG, or give the palette colours")
    return palette[:, 0].astype(np.int32)[indices] if as_levels else indices


def _are_classes(values: Sequence[int], named: Collection[int], ignored: Collection[int]) -> bool:
    """Return whether values are indices of classes, one at least, all of which have names."""
    classes = {value for value in values if value not in ignored and (value or 0 in named)}
    return bool(classes) and classes <= set(named)


def level_values(stored: Stored) -> NDArray[Any]:
    """The distinct levels of a grey picture, or of one with a palette of greys; none of any other."""
    if stored.is_array or stored.values.ndim == 3 or stored.values.dtype.kind not in "iu":
        return np.array([], int)
    used = np.unique(stored.values)
    if stored.palette is None:
        return used
    colours = stored.palette[used[used < len(stored.palette)]].astype(int)
    return np.array([], int) if np.ptp(colours, axis=1).any() else colours[:, 0]


def may_be_one_object(stored: Stored) -> bool:
    """Return whether a label map may as well be the mask of one object.

    That is black and white, or nothing but 0, 1 and 255. A palette of colours says that it is a label map.
    """
    values, of_masks = stored.values, [0, 1, IGNORED]
    if stored.palette is not None and values.max() < len(stored.palette):
        values, of_masks = stored.palette[values].reshape(-1, 3), [0, IGNORED]
        if np.ptp(values.astype(np.int16), axis=1).any():
            return False
    return values.dtype == np.bool_ or bool(values.any() and np.isin(values, of_masks).all())
