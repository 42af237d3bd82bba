"""A checkpoint of full size with random weights: the architecture of Stable Diffusion 1.5, in half precision.

Public weights are not needed where only time and memory are asked for. The tokenizer is the demo model's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from segrefine.assets import demo_checkpoint


def write_stable_diffusion(folder: Path) -> None:
    """Writes the checkpoint, 2.1 GB, as diffusers lays it out; done already, it is left as it is.

    Args:
        folder: target; written under another name first.
    """
    if folder.exists():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    torch.manual_seed(0)
    for name, make in {"unet": _unet, "vae": _vae, "text_encoder": _text_encoder}.items():
        make().half().save_pretrained(partial / name)
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    ).save_pretrained(partial / "scheduler")
    demo = demo_checkpoint()
    shutil.copytree(demo / "tokenizer", partial / "tokenizer")
    shutil.copy(demo / "model_index.json", partial)
    partial.rename(folder)


def _unet() -> nn.Module:
    return UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
    )


def _vae() -> nn.Module:
    channels = (128, 256, 512, 512)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )


def _text_encoder() -> nn.Module:
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, vocab_size=49408
        )
    )
