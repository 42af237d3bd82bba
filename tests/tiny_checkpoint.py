"""Stable Diffusion checkpoints, whole but tiny: seeded, untrained, as diffusers saves them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

TOKENS = 16


def write_tiny_checkpoint(folder: Path, *, xl: bool = False, unet: dict[str, Any] | None = None, **vae: Any) -> Path:
    """Writes a checkpoint in half precision: 2 levels, 2 pixels per latent pixel.

    Args:
        folder: target.
        xl: with two text encoders, the pooled text and the image's size, as Stable Diffusion XL has.
        unet: changes of the denoiser's configuration.
        vae: changes of the image codec's.
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    shape = _XL_UNET if xl else TINY_UNET
    UNet2DConditionModel(**shape | (unet or {})).half().save_pretrained(folder / "unet")
    AutoencoderKL(**_VAE | vae).half().save_pretrained(folder / "vae")
    CLIPTextModel(CLIPTextConfig(**_TEXT)).half().save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    if xl:
        wide = CLIPTextConfig(**_TEXT | {"hidden_size": 48, "projection_dim": 24})
        CLIPTextModelWithProjection(wide).half().save_pretrained(folder / "text_encoder_2")
        write_tokenizer(folder / "tokenizer_2", pad_token="!")
    scheduler = DDIMScheduler(prediction_type="v_prediction", steps_offset=1, clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    index = {"_class_name": f"StableDiffusion{'XL' * xl}Pipeline", **{k: ["diffusers", v] for k, v in parts.items()}}
    index |= {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]} if xl else {}
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder": ["transformers", "CLIPTextModel"]}))
    return folder


def write_tiny_label_checkpoint(folder: Path, base: Path, codec_name: str) -> None:
    """Writes a label diffusion model, as training does, around the parts of a checkpoint.

    Args:
        folder: target.
        base: what `write_tiny_checkpoint` wrote.
        codec_name: "area" or "vae".
    """
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel

    from segrefine.reference.checkpoint import load_checkpoint
    from segrefine.reference.label_codec import AreaCodec, VaeCodec, write_codec

    parts = load_checkpoint(base)
    area = AreaCodec(fold=2, scale=0.25, vae_scale_factor=2)
    codec = area if codec_name == "area" else VaeCodec(vae=parts.vae, scale=0.5)
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("unet"))
    torch.manual_seed(3)
    config = dict(parts.unet.config) | {
        "in_channels": codec.channels + 4,
        "out_channels": codec.channels,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),  # as Stable Diffusion; half the time to export
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    UNet2DConditionModel.from_config(config).half().save_pretrained(folder / "label_denoiser")
    DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    ).save_pretrained(folder / "scheduler")
    write_codec(codec, folder)


def write_tiny_feature_checkpoint(folder: Path, base: Path) -> None:
    """Writes a label diffusion model whose image encoder is a `FeatureEncoder`.

    Args:
        folder: target.
        base: what `write_tiny_label_checkpoint` wrote with the area codec.
    """
    from diffusers import UNet2DConditionModel

    from segrefine.reference.label_codec import AreaCodec, write_codec

    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("vae", "label_denoiser"))
    new_tiny_encoder().folded().half().save_pretrained(folder / "vae")
    codec = AreaCodec(fold=8, scale=0.25, vae_scale_factor=8)
    config = UNet2DConditionModel.load_config(base / "label_denoiser")
    channels = {"in_channels": codec.channels + 8, "out_channels": codec.channels}
    UNet2DConditionModel.from_config(config, **channels).half().save_pretrained(folder / "label_denoiser")
    write_codec(codec, folder)


def write_small_vae(folder: Path, **config: Any) -> Path:
    """Writes a small image codec in TAESD's format that fits the tiny checkpoint; `config` changes it."""
    import torch
    from diffusers import AutoencoderTiny

    torch.manual_seed(5)
    blocks = {f"{side}_block_out_channels": (8, 8) for side in ("encoder", "decoder")}
    counts = {f"num_{side}_blocks": (1, 1) for side in ("encoder", "decoder")}
    AutoencoderTiny(**blocks | counts | config).half().save_pretrained(folder)
    return folder


def new_tiny_encoder() -> Any:
    """A seeded `FeatureEncoder` whose statistics are not those of a new network."""
    import torch

    from segrefine.reference.image_encoder import FeatureEncoder

    torch.manual_seed(4)
    stages = ((8, 1, 2, 3, 1), (8, 1, 2, 5, 2), (16, 2, 2, 3, 2), (16, 1, 2, 3, 2))
    encoder = FeatureEncoder(stem=8, stages=stages, width=16, latent_channels=8)
    for norm in (each for each in encoder.modules() if isinstance(each, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    return encoder


TINY_UNET: dict[str, Any] = {
    "sample_size": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "attention_head_dim": (1, 2),
    "cross_attention_dim": 32,
    "norm_num_groups": 8,
    "use_linear_projection": True,
}
_XL_UNET = TINY_UNET | {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1),
    "cross_attention_dim": 32 + 48,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24 + 6 * 8,
}
_VAE: dict[str, Any] = {
    "sample_size": 16,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
_TEXT: dict[str, Any] = {
    "vocab_size": 514,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": TOKENS,
    "bos_token_id": 512,
    "eos_token_id": 513,
    "pad_token_id": 513,
}


def write_tokenizer(folder: Path, pad_token: str = "<|endoftext|>") -> None:
    """Writes a CLIP tokenizer without merges: every byte is a token, once inside a word and once at its end."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": pad_token,
        "unk_token": "<|endoftext|>",
    }
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
