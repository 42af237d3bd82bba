"""A Stable Diffusion checkpoint, whole but tiny: made once per run, seeded, untrained."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton: GPU kernels are computed on the CPU

TOKENS = 16


@pytest.fixture(scope="session")
def half_demo_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo bundles in half precision, by name."""
    from segrefine.assets import DEMO_BUNDLES
    from segrefine.export import export_bundle

    folder = tmp_path_factory.mktemp("half")
    return {name: export_bundle(name, folder / name, dtype="fp16").path for name in DEMO_BUNDLES}


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as diffusers saves it, in half precision: 2 levels of attention, 2 pixels per latent pixel."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("tiny-checkpoint")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=(1, 2),
        cross_attention_dim=32,
        norm_num_groups=8,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
    )
    text_config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    unet.half().save_pretrained(folder / "unet")
    vae.half().save_pretrained(folder / "vae")
    CLIPTextModel(text_config).half().save_pretrained(folder / "text_encoder")
    scheduler = DDIMScheduler(prediction_type="v_prediction", steps_offset=1, clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    write_tokenizer(folder / "tokenizer")
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    index = {"_class_name": "StableDiffusionPipeline", **{part: ["diffusers", kind] for part, kind in parts.items()}}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session", params=["area", "vae"])
def tiny_label_checkpoint(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A label diffusion model as training writes it, around the parts of `tiny_checkpoint`, with either codec."""
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel

    from segrefine.reference.checkpoint import load_checkpoint
    from segrefine.reference.label_codec import AreaCodec, VaeCodec, write_codec

    folder = tmp_path_factory.mktemp("tiny-labels") / request.param
    parts = load_checkpoint(tiny_checkpoint)
    area = AreaCodec(fold=2, scale=0.25, vae_scale_factor=2)
    codec = area if request.param == "area" else VaeCodec(vae=parts.vae, scale=0.5)
    shutil.copytree(tiny_checkpoint, folder, ignore=shutil.ignore_patterns("unet"))
    torch.manual_seed(3)
    config = dict(parts.unet.config) | {"in_channels": codec.channels + 4, "out_channels": codec.channels}
    UNet2DConditionModel.from_config(config).half().save_pretrained(folder / "label_denoiser")
    DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    ).save_pretrained(folder / "scheduler")
    write_codec(codec, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_label_bundle(tiny_label_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `tiny_label_checkpoint`."""
    from segrefine.export import export_bundle

    return export_bundle(tiny_label_checkpoint, tmp_path_factory.mktemp("tiny-label-bundle") / "bundle").path


def write_tokenizer(folder: Path) -> None:
    """Writes a CLIP tokenizer without merges: every byte is a token, once inside a word and once at its end."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
