"""The networks of `photo`, set out from those of `photo-gs`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from segrefine.assets import photo_gs_checkpoint
from segrefine.reference.image_encoder import FeatureEncoder
from training.demo.networks import new_scheduler
from training.demo.train import MODEL_INDEX as DEMO_INDEX
from training.demo.train_vae import to_unit
from training.photo_gs.start import renew_ends
from training.photos.compose import SceneComposer

MODEL_INDEX = DEMO_INDEX.replace('["diffusers", "AutoencoderKL"]', '["segrefine", "FeatureEncoder"]')
CELL = 8
"""Pixels of a latent cell along one side."""
DECODER_WIDTH, DECODER_STEPS, DECODER_BATCH = 96, 1500, 16


def write_start(folder: Path) -> None:
    """Write the checkpoint that training sets out from.

    Image encoder, text encoder and tokenizer are those of `photo-gs`. So is the denoiser, which reads the same features
    there beside a mask: it has new ends for the features alone.
    """
    source = photo_gs_checkpoint()
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("label_*", "scheduler", "README.md"))
    denoiser = UNet2DConditionModel.from_pretrained(source / "label_denoiser").float()
    torch.manual_seed(0)
    take_ends(denoiser, FeatureEncoder.load_config(source / "vae")["latent_channels"])
    denoiser.half().save_pretrained(folder / "unet")
    new_scheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(MODEL_INDEX, "utf-8")


@torch.no_grad()
def take_ends(denoiser: UNet2DConditionModel, channels: int) -> None:
    """Make a denoiser of label latents beside features one of features: it keeps what it reads of them."""
    first = denoiser.conv_in
    renew_ends(denoiser, channels, channels)
    denoiser.conv_in.weight.copy_(first.weight[:, -channels:])
    denoiser.conv_in.bias.copy_(first.bias)


def add_decoder(encoder: FeatureEncoder, composer: SceneComposer, steps: int = DECODER_STEPS) -> FeatureEncoder:
    """The encoder with a decoder that was trained on `steps` batches; the encoder itself stays as it is."""
    whole: FeatureEncoder = FeatureEncoder.from_config(encoder.config, decoder_width=DECODER_WIDTH)
    whole.load_state_dict(encoder.state_dict(), strict=False)
    whole.requires_grad_(False)
    weights = list(whole.decoder.requires_grad_(True).parameters())
    optimiser = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.0)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        rng = np.random.default_rng([23, step])
        images = to_unit(np.stack([composer.draw(rng).image for _ in range(DECODER_BATCH)]))
        loss = F.l1_loss(whole.decode(whole(images)).sample, images)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    whole.eval().requires_grad_(False)
    return whole


def load_networks(folder: Path) -> tuple[UNet2DConditionModel, CLIPTextModel, FeatureEncoder, CLIPTokenizer]:
    """Denoiser, text encoder, image encoder and tokenizer of a checkpoint, in single precision."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").float()
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").float()
    encoder = FeatureEncoder.from_pretrained(folder / "vae").float().eval().requires_grad_(False)
    return unet, text_encoder, encoder, CLIPTokenizer.from_pretrained(folder / "tokenizer")


def to_grid(mask: Tensor) -> Tensor:
    """The share of each cell (B, h, w) that masks (B, 8h, 8w) cover."""
    return F.avg_pool2d(mask[:, None].float(), CELL)[:, 0]
