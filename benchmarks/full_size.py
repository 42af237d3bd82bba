"""Checkpoints of full size with random weights: the exact architectures of Stable Diffusion 1.5, 2.1 and XL.

Public weights are not needed where only time, memory and parity are asked for. The tokenizer is the demo model's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from segrefine.assets import demo_checkpoint

FOLDER = Path.home() / ".cache/segrefine/full-size"

_CLIP_L: Mapping[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
}  # fmt: skip
_OPEN_CLIP_H: Mapping[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23,
    "hidden_act": "gelu", "projection_dim": 512,
}  # fmt: skip
_OPEN_CLIP_G: Mapping[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32,
    "hidden_act": "gelu", "projection_dim": 1280,
}  # fmt: skip
_UNETS: Mapping[str, Mapping[str, Any]] = {
    "sd15": {
        "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sd21": {
        "sample_size": 96, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True, "upcast_attention": True,
    },
    "sdxl": {
        "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20), "use_linear_projection": True, "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip


def write_full_size(name: str, folder: Path, dtype: torch.dtype) -> Path:
    """Writes a checkpoint as diffusers lays it out, and returns its folder; done already, it is left as it is.

    Args:
        name: "sd15", "sd21" or "sdxl".
        folder: where the checkpoint's folder goes; it is written under another name first.
        dtype: of the weights.
    """
    written = folder / f"{name}-{'fp16' if dtype == torch.float16 else 'fp32'}"
    if written.exists():
        return written
    partial_folder = written.with_name(written.name + ".partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    torch.manual_seed(0)
    for part, make in _parts(name).items():
        with _weights_of(dtype):
            module = make()
        module.save_pretrained(partial_folder / part)
        del module
    prediction = "v_prediction" if name == "sd21" else "epsilon"
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        prediction_type=prediction, steps_offset=1,
    ).save_pretrained(partial_folder / "scheduler")  # fmt: skip
    _write_texts(name, partial_folder)
    partial_folder.rename(written)
    return written


def make_unet(name: str, dtype: torch.dtype, device: str) -> UNet2DConditionModel:
    """The UNet alone, with random weights, on a device."""
    torch.manual_seed(0)
    with _weights_of(dtype), torch.device(device):
        return UNet2DConditionModel(**_UNETS[name]).eval()


def _parts(name: str) -> dict[str, Callable[[], Any]]:
    """Return a constructor for each part of a checkpoint."""
    first = {"sd15": _CLIP_L, "sd21": _OPEN_CLIP_H, "sdxl": _CLIP_L}[name]
    parts: dict[str, Callable[[], Any]] = {
        "unet": partial(UNet2DConditionModel, **_UNETS[name]),
        "vae": partial(_vae, 0.13025 if name == "sdxl" else 0.18215),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**first, vocab_size=49408)),
    }
    if name == "sdxl":
        second = CLIPTextConfig(**_OPEN_CLIP_G, vocab_size=49408)
        parts["text_encoder_2"] = lambda: CLIPTextModelWithProjection(second)
    return parts


def _vae(scaling_factor: float) -> AutoencoderKL:
    channels = (128, 256, 512, 512)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
        scaling_factor=scaling_factor,
    )


def _write_texts(name: str, folder: Path) -> None:
    """Writes the tokenizers, which are the demo model's, and `model_index.json`."""
    demo = demo_checkpoint()
    index = json.loads((demo / "model_index.json").read_text())
    shutil.copytree(demo / "tokenizer", folder / "tokenizer")
    if name == "sdxl":
        shutil.copytree(demo / "tokenizer", folder / "tokenizer_2")
        index |= {
            "_class_name": "StableDiffusionXLPipeline",
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
        }
    (folder / "model_index.json").write_text(json.dumps(index))


@contextmanager
def _weights_of(dtype: torch.dtype) -> Iterator[None]:
    """A context in which modules are made with weights of a type, so that they never exist in another."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
