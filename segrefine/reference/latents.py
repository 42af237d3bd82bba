"""The range of latents: as the image codec gives them, and as denoisers take them."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor


def scale_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """The codec's latents (B, c, h, w) as the denoiser takes them: around 0, and of spread 1."""
    shift, scale = _latent_range(vae)
    return (latents - shift) * scale


def unscale_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """The denoiser's latents (B, c, h, w) as the codec takes them."""
    shift, scale = _latent_range(vae)
    return latents / scale + shift


def _latent_range(vae: AutoencoderKL) -> tuple[float | Tensor, float | Tensor]:
    """Return the shift and the factor of the codec's latents, applied in this order: numbers, or (1, c, 1, 1)."""
    config = vae.config
    if config.get("latents_mean") and config.get("latents_std"):
        mean, spread = (torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
        return mean, float(config.scaling_factor) / spread
    return float(config.get("shift_factor") or 0), float(config.scaling_factor)
