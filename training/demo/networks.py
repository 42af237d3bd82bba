"""The demo model's networks: Stable Diffusion's classes and folder layout, at a size that two CPU cores can train."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel

from segrefine.train import networks
from segrefine.train.networks import TEXT_WIDTH

IMAGE_TIMESTEP = 250
LATENT_SIDE, LATENT_CHANNELS, TOKENS = 16, 4, 77
WIDE_CHANNELS = 16
"""Latent channels of the label model's image codec: of four too little can be read of what is where, and which."""


def new_vae(channels: int = LATENT_CHANNELS) -> AutoencoderKL:
    """An untrained image codec: (B, 3, 64, 64) in [-1, 1] ↔ (B, channels, 16, 16)."""
    vae = networks.new_vae((16, 32, 64), channels)
    # A codec starts to learn only when its latents are not drowned in noise: log-variance −6 at first.
    vae.quant_conv.bias.data[channels:] = -6.0
    return vae


@torch.no_grad()
def widen_vae(vae: AutoencoderKL) -> AutoencoderKL:
    """A codec of `WIDE_CHANNELS` channels: the first are those of `vae`, the others its decoder does not read yet."""
    wide, narrow = new_vae(WIDE_CHANNELS), vae.state_dict()
    weights = wide.state_dict()
    latents = torch.arange(LATENT_CHANNELS)
    moments = torch.cat([latents, WIDE_CHANNELS + latents])  # means, then log-variances
    for name, rows in (("quant_conv", moments), ("post_quant_conv", latents)):
        weights[f"{name}.weight"][rows] = 0
        weights[f"{name}.weight"][rows[:, None], rows] = narrow[f"{name}.weight"]
        weights[f"{name}.bias"][rows] = narrow[f"{name}.bias"]
    for kind in ("weight", "bias"):
        weights[f"encoder.conv_out.{kind}"][moments] = narrow[f"encoder.conv_out.{kind}"]
    weights["decoder.conv_in.weight"].zero_()[:, latents] = narrow["decoder.conv_in.weight"]
    weights |= {name: value for name, value in narrow.items() if value.shape == weights[name].shape}
    wide.load_state_dict(weights)
    wide.register_to_config(scaling_factor=vae.config.scaling_factor)
    return wide


def new_unet(in_channels: int = LATENT_CHANNELS, out_channels: int = LATENT_CHANNELS) -> UNet2DConditionModel:
    """An untrained denoiser of (B, in_channels, 16, 16) with self- and cross-attention at 16×16 and 8×8."""
    return networks.new_denoiser(
        in_channels, out_channels, side=LATENT_SIDE, widths=(64, 128), heads=(1, 2), outer_attention=True
    )


def new_label_denoiser(label_channels: int, unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A denoiser of label latents joined with image latents, with all else as `unet` has learned it.

    At every noise level of the label it sets out as `unet` is at `IMAGE_TIMESTEP`, for the image beside the label is
    never noisy. It takes latents of a wider codec, see `widen_vae`, and at first reads of them what `unet` does.

    Args:
        label_channels: of the label latents, which come first.
        unet: a trained denoiser of image latents.
    """
    denoiser = new_unet(label_channels + WIDE_CHANNELS, label_channels)
    learned, weights = unet.state_dict(), denoiser.state_dict()
    weights["conv_in.weight"][:, label_channels:] = 0
    weights["conv_in.weight"][:, label_channels : label_channels + LATENT_CHANNELS] = learned["conv_in.weight"]
    weights |= {name: value for name, value in learned.items() if value.shape == weights[name].shape}
    denoiser.load_state_dict(weights)
    first, level = denoiser.time_embedding.linear_1, denoiser.time_proj(torch.tensor([IMAGE_TIMESTEP]))
    first.bias.data = first(level)[0].detach()
    first.weight.data.zero_()
    return denoiser


def use_plain_attention(*networks: UNet2DConditionModel | CLIPTextModel) -> None:
    """Has networks compute attention as matrix products: they train 1.5 times as fast on a CPU as with the fused one.

    Their weights stay what they are.
    """
    for network in networks:
        if isinstance(network, UNet2DConditionModel):
            network.set_attn_processor(AttnProcessor())
        else:
            network.set_attn_implementation("eager")


def new_text_encoder(vocabulary: int, *, start: int, end: int) -> CLIPTextModel:
    """An untrained text encoder (B, 77) → (B, 77, 128).

    Args:
        vocabulary: number of token ids.
        start: id of `<|startoftext|>`.
        end: id of `<|endoftext|>`, which pads too.
    """
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        projection_dim=TEXT_WIDTH,
    )
    return CLIPTextModel(config)


def new_label_scheduler(prediction_type: str = "sample") -> DDIMScheduler:
    """The schedule of label diffusion for the demo's models; see `segrefine.train.networks.label_schedule`."""
    return DDIMScheduler.from_config(networks.label_schedule(dict(new_scheduler().config), prediction_type))


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with v-prediction as in 2.1."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
