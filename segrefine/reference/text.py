"""Text inputs of a denoiser, in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from segrefine.reference.families import GUIDANCE_EMBEDDED, TextEncoderKind

Text = dict[str, Tensor]
"""By the names of the denoiser's inputs, for B texts: ``encoder_hidden_states`` (B, tokens, hidden), and for Stable
Diffusion XL ``text_embeds`` (B, width), the pooled text, and ``time_ids`` (B, 6), the image's size."""


def size_condition(size: Sequence[int]) -> Tensor:
    """Return Stable Diffusion XL's condition for an image's size (height, width) in pixels: float (1, 6).

    The size of the original, where it was cropped, and the size that is wanted (arXiv 2307.01952, section 2.2).
    """
    height, width = size
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)


def encode_ids(encoder: nn.Module, kind: TextEncoderKind, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Encode ids (B, tokens): states (B, tokens, hidden), and the pooled text if the encoder's kind has it.

    Args:
        encoder: the text encoder.
        kind: which of its layers the denoiser reads.
        ids: int64.
    """
    outputs = encoder(ids, output_hidden_states=kind.hidden_layer is not None)
    layer = kind.hidden_layer
    states: Tensor = outputs.last_hidden_state if layer is None else outputs.hidden_states[layer]
    return states, outputs.text_embeds if kind.pooled else None


def expand_text(text: Mapping[str, Tensor], batch: int) -> Text:
    """One text (1, ...), for a batch."""
    return {name: values.expand(batch, *values.shape[1:]) for name, values in text.items()}


def predict(unet: UNet2DConditionModel, sample: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    """The denoiser's output (B, c, h, w).

    Args:
        unet: the denoiser.
        sample: (B, C, h, w).
        timestep: (B,) int64.
        text: of B texts.
    """
    added = {name: values for name, values in text.items() if name != "encoder_hidden_states"}
    output: Tensor = unet(
        sample,
        timestep,
        text["encoder_hidden_states"],
        timestep_cond=guidance_embedding(unet, sample.shape[0]),
        added_cond_kwargs=added or None,
    ).sample
    return output


def guidance_embedding(unet: UNet2DConditionModel, batch: int) -> Tensor | None:
    """Embed `GUIDANCE_EMBEDDED` for a consistency model that was distilled with guidance as an input, (B, width).

    None for all other models. Sines and cosines of w·1000 (arXiv 2310.04378, as diffusers has them).
    """
    width = unet.config.time_cond_proj_dim
    if width is None:
        return None
    half = width // 2
    rates = torch.exp(-torch.arange(half) * (torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = 1000 * GUIDANCE_EMBEDDED * rates
    row = torch.cat([angles.sin(), angles.cos(), torch.zeros(width % 2)])
    return row.to(unet.dtype).expand(batch, -1)
