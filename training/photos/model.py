"""The networks of `photo`, set out from the emoji models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from training.demo.networks import new_text_encoder, new_unet, new_vae
from training.demo.train_vae import to_unit
from training.photos.compose import SceneComposer
from training.photos.words import SEVEN

CHANNELS = 8
READ = 2 + len(SEVEN)
"""What the probe tells apart: background, the seven classes, any other."""
NOUNS = ("fox", "car", "apple", "tree", "boat", "guitar", "penguin")
"""Words of the emoji model whose embeddings a new word's is drawn like."""
TEMPER = 0.5
"""Exponent of the latents' variances: 1 leaves them, 0 makes all channels alike."""


@torch.no_grad()
def fold_vae(wide: AutoencoderKL, composer: SceneComposer, count: int = 2000) -> tuple[AutoencoderKL, Tensor]:
    """A codec whose latents are the strongest `CHANNELS` components of those of `wide`, and these components.

    The components are folded into the two 1×1 convolutions next to the latents, so the rest is as in `wide`. A single
    scaling factor then suits all channels: in `wide` the variances differ by a factor of a thousand.

    Returns:
        The codec, and float32 (CHANNELS, channels of `wide`) that takes scaled latents of `wide` to scaled ones of it.
    """
    rng = np.random.default_rng(3)
    images = np.stack([composer.draw(rng).image for _ in range(count)])
    latents = torch.cat([wide.encode(to_unit(images[i : i + 50])).latent_dist.mean for i in range(0, count, 50)])
    flat = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).double()
    mean, (values, vectors) = flat.mean(0), torch.linalg.eigh(torch.cov(flat.T))
    values, vectors = values.flip(0)[:CHANNELS], vectors.flip(1)[:, :CHANNELS]
    spread = values**TEMPER
    gain = (spread / spread.mean() / values).sqrt()
    down = gain[:, None] * vectors.T  # latents of `wide` less their mean → new latents, mean variance 1
    up = vectors / gain
    vae = new_vae(CHANNELS)
    weights, old = vae.state_dict(), wide.state_dict()
    weights |= {name: value for name, value in old.items() if value.shape == weights[name].shape}
    many = len(mean)
    weights["encoder.conv_out.weight"] = torch.zeros(2 * CHANNELS, *old["encoder.conv_out.weight"].shape[1:])
    # The means' half of `quant_conv` reads the means' half of `conv_out` alone only if it was trained so: fold both.
    whole = old["quant_conv.weight"][:many, :, 0, 0].double()
    head = old["encoder.conv_out.weight"].double()
    folded = torch.einsum("cm,mk,kxyz->cxyz", down, whole, head)
    bias = down @ (whole @ old["encoder.conv_out.bias"].double() + old["quant_conv.bias"][:many].double() - mean)
    weights["encoder.conv_out.weight"][:CHANNELS] = folded.float()
    weights["encoder.conv_out.bias"] = torch.cat([bias, torch.full((CHANNELS,), -6.0).double()]).float()
    weights["quant_conv.weight"] = torch.eye(2 * CHANNELS)[:, :, None, None]
    weights["quant_conv.bias"] = torch.zeros(2 * CHANNELS)
    weights["post_quant_conv.weight"] = torch.eye(CHANNELS)[:, :, None, None]
    first = old["decoder.conv_in.weight"].double()
    after = old["post_quant_conv.weight"][:, :, 0, 0].double()
    weights["decoder.conv_in.weight"] = torch.einsum("okyx,kw,wc->ocyx", first, after, up).float()
    level = after @ mean + old["post_quant_conv.bias"].double()
    # Zeros pad the image after `post_quant_conv`, so as much of the level as possible belongs there.
    inside = torch.linalg.lstsq(after @ up, level[:, None]).solution[:, 0]
    weights["post_quant_conv.bias"] = inside.float()
    level = level - after @ up @ inside
    rest = torch.einsum("okyx,k->o", first, level)
    weights["decoder.conv_in.bias"] = (old["decoder.conv_in.bias"].double() + rest).float()
    vae.load_state_dict(weights)
    vae.register_to_config(scaling_factor=1.0)
    return vae.eval(), (down / wide.config.scaling_factor).float()


@torch.no_grad()
def new_photo_unet(emoji: UNet2DConditionModel, down: Tensor) -> UNet2DConditionModel:
    """A denoiser of latents of `fold_vae` that reads and writes what `emoji` does of its four channels.

    Args:
        emoji: the emoji model's denoiser.
        down: the second result of `fold_vae`.
    """
    unet, learned = new_unet(CHANNELS, CHANNELS), emoji.state_dict()
    weights = unet.state_dict()
    weights |= {name: value for name, value in learned.items() if value.shape == weights[name].shape}
    four = emoji.config.in_channels
    back = torch.linalg.pinv(down)[:four]
    weights["conv_in.weight"] = torch.einsum("okyx,kc->ocyx", learned["conv_in.weight"], back)
    weights["conv_out.weight"] = torch.einsum("ck,kiyx->ciyx", down[:, :four], learned["conv_out.weight"])
    weights["conv_out.bias"] = down[:, :four] @ learned["conv_out.bias"]
    unet.load_state_dict(weights)
    return unet


@torch.no_grad()
def new_photo_text_encoder(emoji: CLIPTextModel, old: CLIPTokenizer, new: CLIPTokenizer) -> CLIPTextModel:
    """The emoji model's text encoder with the words of `new`; tokens that both know keep their embeddings."""
    text_encoder = new_text_encoder(len(new), start=new.bos_token_id, end=new.eos_token_id)
    weights, learned = text_encoder.state_dict(), emoji.state_dict()
    (name,) = (each for each in weights if each.endswith("token_embedding.weight"))
    known, table = old.get_vocab(), learned[name]
    generator = torch.Generator().manual_seed(5)
    like = table[[known[f"{word}</w>"] for word in NOUNS if f"{word}</w>" in known]]
    fresh = like.mean(0) + like.std(0) * torch.randn(len(new), table.shape[1], generator=generator)
    for token, number in new.get_vocab().items():
        if token in known:
            fresh[number] = table[known[token]]
    text_encoder.load_state_dict({**learned, name: fresh})
    return text_encoder


class PhotoDenoiser(nn.Module):
    """The denoiser, and a head that reads classes from its middle block: the head is used in training only.

    Args:
        unet: the denoiser; shared, not copied.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet
        self.head = nn.Conv2d(unet.config.block_out_channels[-1], 4 * READ, 1)

    def forward(self, sample: Tensor, timestep: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction (B, c, h, w), and class logits (B, READ, h, w)."""
        unet = self.unet
        hidden, kept, level = self._descend(sample, timestep, states)
        classes = self._read(hidden)
        for block in unet.up_blocks:
            count = len(block.resnets)
            hidden = block(
                hidden_states=hidden,
                temb=level,
                res_hidden_states_tuple=kept[-count:],
                encoder_hidden_states=states,
            )
            kept = kept[:-count]
        output = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
        return output, classes

    def read_classes(self, sample: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        """The class logits alone, at a third of the cost."""
        return self._read(self._descend(sample, timestep, states)[0])

    def _read(self, middle: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.head(middle), 2)

    def _descend(self, sample: Tensor, timestep: Tensor, states: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Return the middle block's output, the outputs that the way up reads, and the embedded timestep."""
        unet = self.unet
        level = unet.time_embedding(unet.time_proj(timestep).to(sample.dtype))
        hidden = unet.conv_in(sample)
        kept: tuple[Tensor, ...] = (hidden,)
        for block in unet.down_blocks:
            hidden, outputs = block(hidden_states=hidden, temb=level, encoder_hidden_states=states)
            kept += outputs
        return unet.mid_block(hidden, level, encoder_hidden_states=states), kept, level


def load_emoji(folder: Path) -> tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer]:
    """Denoiser, text encoder and tokenizer of a checkpoint, in single precision."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").float()
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").float()
    return unet, text_encoder, CLIPTokenizer.from_pretrained(folder / "tokenizer")
