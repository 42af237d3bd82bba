"""New networks of Stable Diffusion's classes, at sizes that two CPU cores can train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

IMAGE_SIDE, TEXT_WIDTH = 64, 128
"""Longer image side in pixels, and width of the text encoder, of the small models."""


def new_vae(widths: Sequence[int], latents: int, **config: Any) -> AutoencoderKL:
    """An untrained image codec for images of 64 pixels and up.

    Args:
        widths: channels of each level. Each level after the first halves the side.
        latents: channels of the latents.
        config: further settings of `AutoencoderKL`.
    """
    return AutoencoderKL(
        sample_size=IMAGE_SIDE,
        latent_channels=latents,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=tuple(widths),
        layers_per_block=1,
        norm_num_groups=8,
        **config,
    )


def new_denoiser(
    inputs: int, outputs: int, *, side: int, widths: tuple[int, int], heads: tuple[int, int], outer_attention: bool
) -> UNet2DConditionModel:
    """An untrained denoiser of two levels.

    Args:
        inputs: channels that it reads.
        outputs: channels that it predicts.
        side: side of the latents in cells.
        widths: channels of both levels.
        heads: attention heads of both levels.
        outer_attention: whether the way down already has attention at the finer level.
    """
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=inputs,
        out_channels=outputs,
        down_block_types=("CrossAttnDownBlock2D" if outer_attention else "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        mid_block_type="UNetMidBlock2DCrossAttn",
        block_out_channels=widths,
        layers_per_block=1,
        attention_head_dim=heads,  # diffusers' name for the number of heads
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
        use_linear_projection=True,
    )


def label_schedule(config: dict[str, Any], prediction: str) -> dict[str, Any]:
    """A noise schedule for label diffusion. It ends in pure noise, and its steps are trailing (arXiv 2305.08891).

    A model that predicts the noise cannot start from pure noise: its output would say nothing of the mask. Its schedule
    keeps a trace of the mask.
    """
    scheduler = DDIMScheduler.from_config(
        config,
        rescale_betas_zero_snr=prediction != "epsilon",
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        steps_offset=0,
        clip_sample=False,
        prediction_type=prediction,
    )
    return dict(scheduler.config)


TINY_SIDE, TINY_TOKENS, TINY_LATENTS, TINY_FOLD = IMAGE_SIDE, 24, 32, 8
TINY_SCALE = 5.0
"""Factor on latents. Those of an untrained codec have a standard deviation of 0.2, and the denoiser expects about 1."""
TINY_LABEL_WEIGHT = 0.1
"""Factor on the denoiser's first weights for label latents, which are noise at the levels that matter most.

Without both factors the image is 2 % of what the denoiser reads, and training stays at the mean mask for long.
"""


def new_tiny_vae() -> AutoencoderKL:
    """The image codec of `tiny`: eight pixels per latent pixel."""
    return new_vae((16, 32, 64, 128), TINY_LATENTS, scaling_factor=TINY_SCALE)


def new_tiny_denoiser() -> UNet2DConditionModel:
    """The label denoiser of `tiny`. It starts from the image; label latents hardly count at first."""
    denoiser = new_denoiser(
        TINY_FOLD**2 + TINY_LATENTS,
        TINY_FOLD**2,
        side=TINY_SIDE // 8,
        widths=(96, 128),
        heads=(2, 2),
        outer_attention=False,
    )
    with torch.no_grad():
        denoiser.conv_in.weight[:, : TINY_FOLD**2] *= TINY_LABEL_WEIGHT
    return denoiser
