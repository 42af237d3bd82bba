"""A Stable Diffusion checkpoint, as diffusers saves it, opened for inference; parts are loaded when read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from segrefine.errors import ExportError
from segrefine.reference.families import FAMILIES, Family, find_family
from segrefine.reference.label_codec import AreaCodec, VaeCodec, read_codec
from segrefine.reference.latents import scale_latents
from segrefine.reference.single_file import PREFIXES, load_part
from segrefine.reference.text import Text, encode_ids, size_condition
from segrefine.reference.weight_files import SingleFile, find_weights, read_header
from segrefine.reference.weights import load_weights, weight_stem

_CLASSES: dict[str, Any] = {
    "unet": UNet2DConditionModel, "label_denoiser": UNet2DConditionModel, "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection,
}  # fmt: skip
_HINT = "give a folder that diffusers' save_pretrained wrote for Stable Diffusion 1.x, 2.x or XL, or `demo`"

Model = str | Path | SingleFile
"""A diffusers folder, or a single file."""

Load = Callable[[str], Any]
"""Name of a part, such as "vae" → the part, in evaluation mode, without gradients; the same one each time."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What models of both methods have.

    Attributes:
        model: where it was read from.
        load: gives a part.
        configs: the configuration of each part.
        tokenizers: turn text into token ids, by the names of their folders; all of them know the same words.
        scheduler_config: the noise schedule, as in `scheduler/scheduler_config.json`.
        model_index: pipeline class and parts, as in `model_index.json`.
        family: what it needs that others do not.
    """

    model: Model
    load: Load
    configs: Mapping[str, Mapping[str, Any]]
    tokenizers: Mapping[str, CLIPTokenizer]
    scheduler_config: dict[str, Any]
    model_index: dict[str, Any]
    family: Family = field(default=FAMILIES[0])

    @property
    def vae(self) -> AutoencoderKL:
        """The image codec."""
        return self.load("vae")

    @property
    def text_encoder(self) -> CLIPTextModel:
        """The first of what turns token ids into states."""
        return cast(CLIPTextModel, self.load("text_encoder"))

    @property
    def tokenizer(self) -> CLIPTokenizer:
        """The first of what turns text into token ids."""
        return self.tokenizers["tokenizer"]

    @property
    def vae_scale_factor(self) -> int:
        """Image pixels per latent pixel, along one side."""
        return int(2 ** (len(self.configs["vae"]["block_out_channels"]) - 1))

    @property
    def prediction_type(self) -> str:
        """What the denoiser predicts: "epsilon", "v_prediction" or "sample"."""
        return str(self.scheduler_config.get("prediction_type", "epsilon"))

    def encode_image(self, image: Tensor) -> Tensor:
        """Latents (B, c, h, w) of images (B, 3, H, W) in [-1, 1]: the mean of the codec's posterior, scaled."""
        return scale_latents(self.vae, self.vae.encode(image).latent_dist.mean)

    def encode_text(self, texts: Sequence[str], size: Sequence[int]) -> Text:
        """What the denoiser is told of texts (B) under an image of a size (height, width) in pixels."""
        states, pooled = [], {}
        for kind in self.family.text_encoders:
            ids = self.tokenizers[kind.tokenizer](
                list(texts), padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids
            encoder = self.load(kind.part)
            of_words, of_text = encode_ids(encoder, kind, ids.to(encoder.device))
            states.append(of_words)
            if of_text is not None:
                pooled = {"text_embeds": of_text}
        text = {"encoder_hidden_states": torch.cat(states, -1), **pooled}
        if self.family.addition == "text_time":
            text["time_ids"] = size_condition(size).expand(len(texts), -1)
        return text


PartsT = TypeVar("PartsT", bound=Parts)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Parts):
    """A text-to-image model."""

    @property
    def unet(self) -> UNet2DConditionModel:
        """The denoiser of image latents."""
        return self.load("unet")


@dataclass(frozen=True, kw_only=True)
class LabelCheckpoint(Parts):
    """A label diffusion model.

    Attributes:
        codec: turns masks into label latents and back.
    """

    codec: AreaCodec | VaeCodec

    @property
    def label_denoiser(self) -> UNet2DConditionModel:
        """The denoiser of label latents; takes them joined with the image's latents."""
        return self.load("label_denoiser")


def load_checkpoint(model: Model, dtype: torch.dtype | None = torch.float32) -> Checkpoint:
    """A text-to-image model; nothing is fetched.

    Args:
        model: its diffusers folder, or its single file.
        dtype: what weights are brought to, but for the VAE's, which are float32; None leaves them as they are stored.

    Raises:
        ExportError: the folder is not such a checkpoint; the message names what was expected. What is wrong with a
            part's weights shows when the part is first read.
    """
    parts = _open_parts(model, "unet", dtype)
    taken, latent = parts["configs"]["unet"]["in_channels"], parts["configs"]["vae"]["latent_channels"]
    if taken != latent:
        message = f"the UNet takes {taken} channels, and the VAE's latents have {latent}: made for inpainting or edits"
        raise ExportError(message, hint="give the text-to-image model that it was made from")
    return Checkpoint(**parts)


def load_label_checkpoint(model: Model, dtype: torch.dtype | None = torch.float32) -> LabelCheckpoint:
    """A label diffusion model; nothing is fetched.

    Args:
        model: its diffusers folder, or its single file.
        dtype: what weights are brought to, but for the VAE's, which are float32; None leaves them as they are stored.

    Raises:
        ExportError: the folder is not such a checkpoint; the message names what was expected.
    """
    parts = _open_parts(model, "label_denoiser", dtype)
    folder = _config_folder(model)
    codec = read_codec(folder, parts["configs"]["vae"], partial(parts["load"], "vae"))
    config = parts["configs"]["label_denoiser"]
    expected = codec.channels + parts["configs"]["vae"]["latent_channels"], codec.channels
    if (config["in_channels"], config["out_channels"]) != expected:
        raise ExportError(
            f"{folder / 'label_denoiser'} takes {config['in_channels']} channels and gives "
            f"{config['out_channels']}, expected {expected[0]} (label and image latents) and {expected[1]}",
            hint="check label_codec/config.json",
        )
    return LabelCheckpoint(**parts, codec=codec)


def reopen(checkpoint: PartsT, dtype: torch.dtype | None) -> PartsT:
    """The same checkpoint with no part loaded, and weights brought to another type; see `load_checkpoint`."""
    return replace(checkpoint, load=_loader(checkpoint.model, dtype))


def count_weights(model: Model, part: str) -> int:
    """How many numbers the weights of a part are; reads headers alone.

    Raises:
        ExportError: they are missing, or cannot be read.
    """
    if isinstance(model, SingleFile):
        headers, prefixes = [read_header(model.file) or {}], PREFIXES[part]
    else:
        _, files = find_weights(Path(model) / part, weight_stem(_CLASSES[part]))
        headers, prefixes = [read_header(file) or {} for file in files], ("",)
    return sum(
        math.prod(entry["shape"]) for header in headers for name, entry in header.items() if name.startswith(prefixes)
    )


def is_label_checkpoint(model: Model) -> bool:
    """Whether a model looks like a label diffusion model."""
    return not isinstance(model, SingleFile) and (Path(model) / "label_denoiser").is_dir()


def _open_parts(model: Model, denoiser: str, dtype: torch.dtype | None) -> dict[str, Any]:
    """What `Parts` has, by name.

    Raises:
        ExportError: something is missing, or of another kind than it should be.
    """
    folder = _config_folder(model)
    model_index = _read_json(folder, "model_index.json")
    scheduler_config = _read_json(folder, "scheduler/scheduler_config.json")
    configs = {denoiser: _read_config(folder, denoiser)}
    family = find_family(configs[denoiser], model_index)
    tokenizers = {}
    for kind in family.text_encoders:
        configs[kind.part] = _read_config(folder, kind.part)
        tokenizers[kind.tokenizer] = _read_tokenizer(folder / kind.tokenizer)
    if len({json.dumps(tokenizer.get_vocab(), sort_keys=True) for tokenizer in tokenizers.values()}) > 1:
        raise ExportError(f"the tokenizers of {folder} have other words", hint=_HINT)
    configs["vae"] = _read_config(folder, "vae")
    for part in configs:
        count_weights(model, part)  # what is missing is better known now than when the part is read

    return {
        "model": model,
        "load": _loader(model, dtype),
        "configs": configs,
        "scheduler_config": scheduler_config,
        "model_index": model_index,
        "family": family,
        "tokenizers": tokenizers,
    }


def _config_folder(model: Model) -> Path:
    """The folder with a model's configurations and tokenizers."""
    return model.config if isinstance(model, SingleFile) else Path(model)


def _loader(model: Model, dtype: torch.dtype | None) -> Load:
    """What loads the parts of a model, each once."""

    @cache
    def load(part: str) -> nn.Module:
        wanted = torch.float32 if part == "vae" else dtype
        if isinstance(model, SingleFile):
            return load_part(_CLASSES[part], model, part, wanted)
        return load_weights(_CLASSES[part], Path(model) / part, wanted)

    return load


def _read_config(folder: Path, part: str) -> dict[str, Any]:
    """The configuration of a part, with what it leaves out as in diffusers.

    Raises:
        ExportError: it is missing, or of another class than the part should be.
    """
    config = _read_json(folder, f"{part}/config.json")
    found, expected = config.get("_class_name") or (config.get("architectures") or ["nothing"])[0], _CLASSES[part]
    if found != expected.__name__:
        raise ExportError(f"{folder / part} holds {found}, expected {expected.__name__}", hint=_HINT)
    if part.startswith("text_encoder"):
        return config
    whole, *_ = expected.extract_init_dict(config)
    return dict(whole)


def _read_tokenizer(folder: Path) -> CLIPTokenizer:
    try:
        return cast(CLIPTokenizer, CLIPTokenizer.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # tokenizers' own errors have no other base
        message = f"{folder} holds no CLIP tokenizer (vocab.json and merges.txt) that can be read: {error}"
        raise ExportError(message, hint=_HINT) from error


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
