"""Masks as label latents, and back: what label diffusion adds its noise to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from segrefine.errors import ExportError
from segrefine.reference.configs import FEATURE_ENCODER, pixels_per_latent
from segrefine.reference.latents import encode_image, unscale_latents
from segrefine.storage import read_json_object

CODEC_FILE = "label_codec/config.json"
_HINT = 'it holds {"kind": "area", "fold": 4, "scale": 0.25} or {"kind": "vae", "scale": 1.0}'


class LabelCodec(Protocol):
    """Turns masks into label latents and back.

    Attributes:
        channels: of a label latent.
    """

    channels: int

    def encode(self, mask: Tensor) -> Tensor:
        """Label latents (B, channels, h, w) of masks (B, 1, H, W) in [0, 1]; h, w is the image latents' grid."""

    def decode(self, latents: Tensor) -> Tensor:
        """Masks (B, 1, H', W') in [0, 1] of label latents, at the codec's own resolution."""


@dataclass(frozen=True, kw_only=True)
class AreaCodec:
    """A mask averaged over cells, with `fold` × `fold` cells side by side in each pixel of the latent grid.

    Attributes:
        fold: cells per latent pixel along one side; 1 is the mask at the latent grid's resolution.
        scale: latents lie in ± this. Neighbouring cells of a mask agree, so that noise hides them less than it would
            hide an image; a smaller scale makes up for it (arXiv 2210.06366, section 4.3).
        vae_scale_factor: image pixels per latent pixel, along one side.
    """

    fold: int
    scale: float
    vae_scale_factor: int

    @property
    def channels(self) -> int:
        """Channels of a label latent."""
        return self.fold**2

    def encode(self, mask: Tensor) -> Tensor:
        """Label latents (B, fold², h, w) of masks (B, 1, H, W) in [0, 1]."""
        cells: Tensor = F.avg_pool2d(mask, self.vae_scale_factor // self.fold)
        return (2 * F.pixel_unshuffle(cells, self.fold) - 1) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Masks (B, 1, h · fold, w · fold) in [0, 1]."""
        return ((F.pixel_shuffle(latents, self.fold) / self.scale + 1) / 2).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class VaeCodec:
    """A mask as a black and white image, through the image codec.

    Attributes:
        vae: the image codec.
        scale: latents are the VAE's, scaled as those of images, times this.
    """

    vae: AutoencoderKL
    scale: float

    @property
    def channels(self) -> int:
        """Channels of a label latent."""
        return int(self.vae.config.latent_channels)

    def encode(self, mask: Tensor) -> Tensor:
        """Label latents (B, C, h, w) of masks (B, 1, H, W) in [0, 1]."""
        return encode_image(self.vae, (2 * mask - 1).expand(-1, 3, -1, -1)) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Masks (B, 1, H, W) in [0, 1]."""
        image: Tensor = self.vae.decode(unscale_latents(self.vae, latents / self.scale)).sample
        mask: Tensor = ((image.mean(1, keepdim=True) + 1) / 2).clamp(0, 1)
        return mask


def describe_codec(codec: AreaCodec | VaeCodec) -> dict[str, Any]:
    """Describe a codec, as JSON values."""
    kind: dict[str, Any] = {"kind": "area", "fold": codec.fold} if isinstance(codec, AreaCodec) else {"kind": "vae"}
    return kind | {"scale": codec.scale}


def write_codec(codec: AreaCodec | VaeCodec, folder: Path) -> None:
    """Writes what a codec is into the checkpoint `folder`; `read_codec` reads it."""
    file = folder / CODEC_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(describe_codec(codec), indent=2) + "\n", encoding="utf-8")


def read_codec(folder: Path, config: Mapping[str, Any], load: Callable[[], AutoencoderKL]) -> AreaCodec | VaeCodec:
    """The codec that `write_codec` described in the checkpoint `folder`.

    Args:
        folder: the checkpoint.
        config: of its image codec.
        load: gives the image codec, where that is needed.

    Raises:
        ExportError: the file is missing, or describes no codec.
    """
    file = folder / CODEC_FILE
    factor = pixels_per_latent(config)
    content = read_json_object(file, ExportError, hint=_HINT)
    try:
        kind, scale = content["kind"], float(content["scale"])
        if kind == "vae" and scale > 0 and config.get("_class_name") != FEATURE_ENCODER:
            return VaeCodec(vae=load(), scale=scale)
        if kind == "area" and scale > 0 and factor % content["fold"] == 0:
            return AreaCodec(fold=content["fold"], scale=scale, vae_scale_factor=factor)
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise ExportError(f"it describes no label codec: {error!r}", subject=file, hint=_HINT) from error
    raise ExportError(
        subject=file,
        expected=f"kind vae for an image codec, or area with a fold that divides {factor}, and a positive scale",
        got=content,
        hint=_HINT,
    )
