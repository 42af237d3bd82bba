"""Descriptors of latent pixels, taken from inside the UNet: what shows the same thing has close descriptors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from segrefine.errors import SettingsError
from segrefine.reference.text import predict


def extract_features(
    unet: UNet2DConditionModel, sample: Tensor, timestep: Tensor, text: Mapping[str, Tensor], taps: Sequence[str]
) -> Tensor:
    """Descriptors of the pixels of `sample`, (B, N, C) float32, rows in raster order, each of length 1 or less.

    Args:
        unet: with mask injection on or off, as its injector says.
        sample: (B, c, h, w) latents at noise level `timestep`; N = h·w.
        timestep: (B,) int64.
        text: of B texts.
        taps: named submodules of the UNet whose outputs are used; C is the sum of their channels.

    Raises:
        SettingsError: a tap is no submodule of the UNet, or no tap is given.
    """
    with tap_outputs(unet, taps) as maps:
        predict(unet, sample, timestep, text)
    return combine_features(maps, sample.shape[-2:])


@contextmanager
def tap_outputs(unet: nn.Module, taps: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
    """The outputs (B, c, h', w') of the tapped submodules, in the order of `taps`, filled in by each forward pass."""
    known = dict(unet.named_modules())
    if not taps or (unknown := [tap for tap in taps if tap not in known]):
        wrong = repr(unknown[0]) if taps else "an empty list"
        raise SettingsError(
            subject="feature taps", expected="submodules of the UNet", got=wrong, hint='such as "up_blocks.1"'
        )
    maps: dict[str, Tensor] = dict.fromkeys(taps, torch.empty(0))

    def keep(tap: str, output: Any) -> None:
        maps[tap] = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)

    handles = [known[tap].register_forward_hook(lambda _, __, output, tap=tap: keep(tap, output)) for tap in taps]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def combine_features(maps: Mapping[str, Tensor], grid: Sequence[int]) -> Tensor:
    """One descriptor (B, h·w, C) float32 per pixel of the latent grid (h, w), from the taps' maps (B, c, h', w').

    Each map is centred over space, resized to the grid, scaled to length 1 per pixel, and weighs the same.
    """
    descriptors = []
    for tapped in maps.values():
        centred = tapped.float() - tapped.float().mean(dim=(2, 3), keepdim=True)
        resized = F.interpolate(centred, size=tuple(grid), mode="bilinear", align_corners=False)
        descriptors.append(F.normalize(resized, dim=1) / len(maps) ** 0.5)
    return torch.cat(descriptors, dim=1).flatten(2).transpose(1, 2)
