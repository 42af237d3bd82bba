"""A Stable Diffusion checkpoint, as diffusers saves it, opened for inference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from segrefine.errors import ExportError
from segrefine.reference.label_codec import AreaCodec, VaeCodec, read_codec

_CLASSES: dict[str, Any] = {
    "unet": UNet2DConditionModel, "label_denoiser": UNet2DConditionModel, "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
}  # fmt: skip
_HINT = "give a folder that diffusers' save_pretrained wrote for Stable Diffusion 1.x or 2.x, or `demo`"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What models of both methods have, in float32, in evaluation mode, without gradients.

    Attributes:
        folder: where it was read from.
        vae: the image codec.
        text_encoder: turns token ids into states.
        tokenizer: turns text into token ids.
        scheduler_config: the noise schedule, as in `scheduler/scheduler_config.json`.
        model_index: pipeline class and parts, as in `model_index.json`.
    """

    folder: Path
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: dict[str, Any]
    model_index: dict[str, Any]

    @property
    def vae_scale_factor(self) -> int:
        """Image pixels per latent pixel, along one side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def prediction_type(self) -> str:
        """What the denoiser predicts: "epsilon", "v_prediction" or "sample"."""
        return str(self.scheduler_config.get("prediction_type", "epsilon"))

    def encode_image(self, image: Tensor) -> Tensor:
        """Latents (B, c, h, w) of images (B, 3, H, W) in [-1, 1]: the mean of the codec's posterior, scaled."""
        mean: Tensor = self.vae.encode(image).latent_dist.mean
        return mean * float(self.vae.config.scaling_factor)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """The text encoder's states (B, tokens, hidden)."""
        ids = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        states: Tensor = self.text_encoder(ids.to(self.text_encoder.device)).last_hidden_state
        return states


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Parts):
    """A text-to-image model.

    Attributes:
        unet: the denoiser of image latents.
    """

    unet: UNet2DConditionModel


@dataclass(frozen=True, kw_only=True)
class LabelCheckpoint(Parts):
    """A label diffusion model.

    Attributes:
        label_denoiser: the denoiser of label latents; takes them joined with the image's latents.
        codec: turns masks into label latents and back.
    """

    label_denoiser: UNet2DConditionModel
    codec: AreaCodec | VaeCodec


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """The text-to-image model in a diffusers folder; half-precision weights are widened, nothing is fetched.

    Raises:
        ExportError: the folder is not such a checkpoint; the message names what was expected.
    """
    return Checkpoint(**_load_parts(Path(folder), "unet"))


def load_label_checkpoint(folder: str | Path) -> LabelCheckpoint:
    """The label diffusion model in a folder; half-precision weights are widened, nothing is fetched.

    Raises:
        ExportError: the folder is not such a checkpoint; the message names what was expected.
    """
    parts = _load_parts(Path(folder), "label_denoiser")
    codec = read_codec(Path(folder), parts["vae"])
    expected = codec.channels + parts["vae"].config.latent_channels, codec.channels
    config = parts["label_denoiser"].config
    if (config.in_channels, config.out_channels) != expected:
        raise ExportError(
            f"{Path(folder) / 'label_denoiser'} takes {config.in_channels} channels and gives {config.out_channels}, "
            f"expected {expected[0]} (label and image latents) and {expected[1]}",
            hint="check label_codec/config.json",
        )
    return LabelCheckpoint(**parts, codec=codec)


def is_label_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like a label diffusion model's."""
    return (folder / "label_denoiser").is_dir()


def _load_parts(folder: Path, denoiser: str) -> dict[str, Any]:
    """What `Parts` has, and the denoiser, by name."""
    texts = {
        "model_index": _read_json(folder, "model_index.json"),
        "scheduler_config": _read_json(folder, "scheduler/scheduler_config.json"),
    }
    names = (denoiser, "vae", "text_encoder")
    if "text_encoder_2" in texts["model_index"]:
        raise ExportError(
            f"{folder} has two text encoders, as Stable Diffusion XL: segrefine takes models with one",
            hint=_HINT,
        )
    for name in names:
        config = _read_json(folder, f"{name}/config.json")
        found, expected = config.get("_class_name") or (config.get("architectures") or ["nothing"])[0], _CLASSES[name]
        if found != expected.__name__:
            raise ExportError(f"{folder / name} holds {found}, expected {expected.__name__}", hint=_HINT)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(f"{folder / 'tokenizer'} holds no CLIP tokenizer: {error}", hint=_HINT) from error
    return {"folder": folder, "tokenizer": tokenizer, **texts, **{name: _load(folder / name) for name in names}}


def _read_json(folder: Path, relative: str) -> dict[str, Any]:
    file = folder / relative
    if not file.is_file():
        raise ExportError(f"{folder} is no diffusers checkpoint: {relative} is missing", hint=_HINT)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"cannot read {file} as JSON: {error}", hint=_HINT) from error
    if not isinstance(content, dict):
        raise ExportError(f"{file} holds no JSON object", hint=_HINT)
    return content


def _load(folder: Path) -> nn.Module:
    """The model of one subfolder; of a folder with half-precision weights alone, those. Weights are safetensors."""
    kind = _CLASSES[folder.name]
    stem = "model" if kind is CLIPTextModel else "diffusion_pytorch_model"
    whole = any(folder.glob(f"{stem}*.safetensors")) and not any(folder.glob(f"{stem}.fp16*.safetensors"))
    if not whole and not any(folder.glob(f"{stem}*.safetensors")):
        raise ExportError(f"{folder / stem}.safetensors is missing", hint="weights are read from safetensors only")
    variant = None if whole or (folder / f"{stem}.safetensors").is_file() else "fp16"
    options: dict[str, Any] = {"variant": variant, "use_safetensors": True, "local_files_only": True}
    try:
        model = kind.from_pretrained(folder, torch_dtype=torch.float32, low_cpu_mem_usage=False, **options)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ExportError(f"cannot load {folder} as {kind.__name__}: {error}", hint=_HINT) from error
    return cast(nn.Module, model.float().eval().requires_grad_(False))
