"""Latents of images, and their range: as the image codec gives them, and as denoisers take them."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from segrefine.reference.image_encoder import FeatureEncoder


def encode_image(encoder: AutoencoderKL | AutoencoderTiny | FeatureEncoder, image: Tensor) -> Tensor:
    """Latents (B, c, h, w) of images (B, 3, H, W) in [-1, 1], as the denoiser takes them.

    An image codec gives the mean of its posterior. A small one has no posterior, and a feature encoder gives features.
    """
    if isinstance(encoder, FeatureEncoder):
        features: Tensor = encoder(image)
        return features
    encoded = encoder.encode(image)
    latents = encoded.latents if isinstance(encoder, AutoencoderTiny) else encoded.latent_dist.mean
    return scale_latents(encoder, latents)


def scale_latents(vae: AutoencoderKL | AutoencoderTiny, latents: Tensor) -> Tensor:
    """The codec's latents (B, c, h, w) as the denoiser takes them: around 0, and of spread 1."""
    shift, scale = _latent_range(vae)
    return (latents - shift) * scale


def unscale_latents(vae: AutoencoderKL | AutoencoderTiny, latents: Tensor) -> Tensor:
    """The denoiser's latents (B, c, h, w) as the codec takes them."""
    shift, scale = _latent_range(vae)
    return latents / scale + shift


def _latent_range(vae: AutoencoderKL | AutoencoderTiny) -> tuple[float | Tensor, float | Tensor]:
    """Return the shift and the factor of the codec's latents, applied in this order: numbers, or (1, c, 1, 1)."""
    config = vae.config
    if config.get("latents_mean") and config.get("latents_std"):
        mean, spread = (torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
        return mean, float(config.scaling_factor) / spread
    return float(config.get("shift_factor") or 0), float(config.scaling_factor)
