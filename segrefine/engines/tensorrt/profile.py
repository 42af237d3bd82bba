"""The sizes that a TensorRT engine takes: smallest, tuned and largest of each symbol, and of each tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segrefine.bundle import Manifest
from segrefine.engines.options import BuildOptions
from segrefine.errors import ShapeError
from segrefine.spec import MAX_PIXELS, ComponentSpec, ShapeProfile, TensorSpec

MOST_VALUES = (1 << 31) - 1
"""The most values that one tensor of a profile may have."""

SYMBOLS = ("batch", "height", "width", "tokens")
"""The sizes that a profile names. Height and width are those of latents; the sizes of pixels follow from them."""


def profile_limits(profile: ShapeProfile) -> tuple[Mapping[str, int], ...]:
    """The smallest, tuned and largest sizes of a profile."""
    return profile.min, profile.opt, profile.max


def make_profile(manifest: Manifest, spec: ComponentSpec, options: BuildOptions) -> ShapeProfile:
    """The sizes of the symbols that a component has, in latent pixels.

    Raises:
        ShapeError: the sizes do not go together, or are too large.
    """
    given = [dict(each or {}) for each in (options.min_shapes, options.opt_shapes, options.max_shapes)]
    if unknown := sorted({symbol for each in given for symbol in each} - set(SYMBOLS)):
        raise ShapeError(
            expected=f"sizes of {', '.join(SYMBOLS)}", got=repr(unknown[0]), hint="such as batch=1,height=64,width=64"
        )
    side = manifest.sample_size
    fixed = {"height": side, "width": side, "tokens": manifest.tokens}
    batches = 1, 2, max(2, MAX_PIXELS // side**2)
    limits = _reconcile([fixed | {"batch": batch} for batch in batches], given)
    if limits[-1]["tokens"] > manifest.tokens:
        raise ShapeError(
            subject="tokens in --max-shapes",
            expected=f"at most {manifest.tokens}, as in the model's prompts",
            got=limits[-1]["tokens"],
            hint="leave tokens out",
        )
    symbols = {symbol for tensor in spec.inputs for symbol in tensor.shape if isinstance(symbol, str)}
    pixels = symbols & {"pixels", "image_height", "image_width"}
    wanted = [each for each in SYMBOLS if each in symbols or (pixels and each in ("height", "width"))]
    profile = ShapeProfile(*({symbol: limit[symbol] for symbol in wanted} for limit in limits))
    for tensor in spec.inputs:
        if math.prod(shape := tensor_shapes(manifest, tensor, profile)[-1]) > MOST_VALUES:
            raise ShapeError(
                subject=f"{spec.name}, the largest {tensor.name!r}",
                expected=f"at most {MOST_VALUES:,} values",
                got=tuple(shape),
                hint="smaller --max-shapes; height and width are those of latents",
            )
    return profile


def _reconcile(defaults: Sequence[Mapping[str, int]], given: Sequence[Mapping[str, int]]) -> list[dict[str, int]]:
    """Smallest, tuned and largest sizes: the given ones, and defaults adjusted to them."""
    smallest, tuned, largest = ({**default, **each} for default, each in zip(defaults, given, strict=True))
    for symbol in tuned:
        if symbol not in given[1]:
            tuned[symbol] = max(tuned[symbol], given[0].get(symbol, 1))
            tuned[symbol] = min(tuned[symbol], given[2].get(symbol, tuned[symbol]))
        if symbol not in given[0]:
            smallest[symbol] = min(smallest[symbol], tuned[symbol])
        if symbol not in given[2]:
            largest[symbol] = max(largest[symbol], tuned[symbol])
    return [smallest, tuned, largest]


def tensor_shapes(manifest: Manifest, tensor: TensorSpec, profile: ShapeProfile) -> list[list[int]]:
    """The smallest, tuned and largest shape of a tensor."""
    factor, shapes = manifest.vae_scale_factor, []
    for limit in profile_limits(profile):
        sizes: dict[str, Any] = dict(limit)
        if "height" in limit:
            height, width = limit["height"], limit["width"]
            sizes |= {"pixels": height * width, "image_height": height * factor, "image_width": width * factor}
        shapes.append([sizes[each] if isinstance(each, str) else each for each in tensor.shape])
    return shapes
