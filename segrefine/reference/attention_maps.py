"""Attention maps of a UNet: cross-attention of words and self-attention, averaged over heads and layers.

Which layers say most: on the way up, the words at about 16 cells a side, and the places at about 32. So DiffPNG chooses
for Stable Diffusion at 512 pixels; DiffSegmenter (arXiv 2309.02773) and iSeg (arXiv 2409.03209) weigh them highest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefine.errors import ExportError
from segrefine.reference.attention import level_of

WORD_SIDE, PLACE_SIDE = 24, 48
"""Most cells along a side of the maps of words and of places, at the model's own size."""
_UP_WITH_ATTENTION = "CrossAttnUpBlock2D"


@dataclass(frozen=True, kw_only=True)
class MapLevels:
    """Depths in the UNet at which attention is read; level l has 2^l times fewer rows and columns than the latents.

    Attributes:
        words: of cross-attention.
        places: of self-attention.
    """

    words: int
    places: int


def has_map_levels(unet: Mapping[str, Any]) -> bool:
    """Return whether a UNet of this configuration has attention that can be read."""
    return _UP_WITH_ATTENTION in unet["up_block_types"]


def find_map_levels(unet: Mapping[str, Any]) -> MapLevels:
    """The levels of a UNet at which attention is read.

    Args:
        unet: its configuration.

    Raises:
        ExportError: it has no attention on the way up.
    """
    blocks = list(unet["up_block_types"])
    levels = sorted(len(blocks) - 1 - place for place, kind in enumerate(blocks) if kind == _UP_WITH_ATTENTION)
    if not levels:
        raise ExportError(
            subject="attention maps",
            expected=f"a UNet with {_UP_WITH_ATTENTION} among its up_block_types",
            got=", ".join(blocks),
            hint="--components without unet_attention exports the rest",
        )

    def choose(most: int) -> int:
        small = [level for level in levels if unet["sample_size"] / 2**level <= most]
        return small[0] if small else levels[-1]

    return MapLevels(words=choose(WORD_SIDE), places=choose(PLACE_SIDE))


@dataclass(kw_only=True)
class AttentionRecord:
    """Collects the attention of one forward pass; a `Record` for `MaskInjector.apply`.

    Attributes:
        levels: where attention is read, on the way up.
        depth: levels of the UNet.
    """

    levels: MapLevels
    depth: int
    _words: list[Tensor] = field(default_factory=list)
    _places: list[Tensor] = field(default_factory=list)

    def __call__(self, layer: str, logits: Callable[[], Tensor], indicator: Tensor | None) -> None:
        """Take the attention of a layer, unless it is at another level or on another way."""
        wanted = self.levels.places if indicator is None else self.levels.words
        if not layer.startswith("up_blocks") or level_of(layer, self.depth) != wanted:
            return
        shares = logits().float().softmax(dim=-1)
        if indicator is None:
            self._places.append(shares.mean(1))
            return
        label = indicator[:, :, :1].float()
        label = label / label.sum(1, keepdim=True).clamp(min=1)
        self._words.append((shares @ label[:, None]).mean(1)[..., 0])

    def maps(self, latents: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the collected maps, on the grid of the places.

        Args:
            latents: height and width of the latents.

        Returns:
            words: (B, rows, columns) float32, the share of a place's attention that a token of the label gets.
            places: (B, N, N) float32 for the N = rows · columns places, how much each attends to each; rows sum to 1.
        """
        coarse, fine = (grid_at(latents, level) for level in (self.levels.words, self.levels.places))
        words = torch.stack(self._words).mean(0).unflatten(1, coarse)
        if self.levels.words != self.levels.places:
            words = F.interpolate(words[:, None], size=fine, mode="bilinear", align_corners=False)[:, 0]
        return words, torch.stack(self._places).mean(0)


def grid_at(latents: Sequence[int], level: int) -> tuple[int, int]:
    """Rows and columns of a level of the UNet, whose strided convolutions round up."""
    cell = 2**level
    return (latents[0] + cell - 1) // cell, (latents[1] + cell - 1) // cell
