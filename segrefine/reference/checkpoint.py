"""A Stable Diffusion checkpoint, as diffusers saves it, opened for inference; parts are loaded when read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from segrefine.errors import ExportError
from segrefine.reference.configs import CLASSES, FEATURE_ENCODER, HINT, pixels_per_latent, read_configs
from segrefine.reference.context import reorder, tokenize
from segrefine.reference.families import FAMILIES, Family
from segrefine.reference.image_encoder import FeatureEncoder
from segrefine.reference.label_codec import AreaCodec, VaeCodec, read_codec
from segrefine.reference.latents import encode_image
from segrefine.reference.single_file import load_part
from segrefine.reference.text import Text, encode_ids, size_condition
from segrefine.reference.weight_files import Model, SingleFile
from segrefine.reference.weights import load_weights
from segrefine.storage import readable_texts

_CLASSES: dict[str, Any] = {
    each.__name__: each
    for each in (
        UNet2DConditionModel, AutoencoderKL, AutoencoderTiny, FeatureEncoder, CLIPTextModel, CLIPTextModelWithProjection
    )
}  # fmt: skip

_UNKNOWN_LENGTH = 10**6
"""Above this, transformers means that a tokenizer does not say its length."""

Load = Callable[[str], Any]
"""Name of a part, such as "vae" → the part, in evaluation mode, without gradients; the same one each time."""


@dataclass(frozen=True, kw_only=True)
class ModelParts:
    """Parts that models of both methods have.

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
        return pixels_per_latent(self.configs["vae"])

    @property
    def prediction_type(self) -> str:
        """Return the denoiser's prediction type: "epsilon", "v_prediction" or "sample"."""
        return str(self.scheduler_config.get("prediction_type", "epsilon"))

    def encode_image(self, image: Tensor) -> Tensor:
        """Latents (B, c, h, w) of images (B, 3, H, W) in [-1, 1]."""
        return encode_image(self.vae, image)

    def encode_text(self, texts: Sequence[str], size: Sequence[int]) -> Text:
        """Encode texts (B) for the denoiser, under an image of a size (height, width) in pixels.

        A `CaptionedPhrase` is read with the words before it.
        """
        states, pooled = [], {}
        for kind in self.family.text_encoders:
            windows = [tokenize(self.tokenizers[kind.tokenizer], text) for text in texts]
            encoder = self.load(kind.part)
            ids, order = (torch.tensor(each).to(encoder.device) for each in zip(*windows, strict=True))
            of_words, of_text = encode_ids(encoder, kind, ids)
            states.append(reorder(of_words, order))
            if of_text is not None:
                pooled = {"text_embeds": of_text}
        text = {"encoder_hidden_states": torch.cat(states, -1), **pooled}
        if self.family.addition == "text_time":
            text["time_ids"] = size_condition(size).expand(len(texts), -1)
        return text


PartsT = TypeVar("PartsT", bound=ModelParts)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(ModelParts):
    """A text-to-image model."""

    @property
    def unet(self) -> UNet2DConditionModel:
        """The denoiser of image latents."""
        return self.load("unet")


@dataclass(frozen=True, kw_only=True)
class LabelCheckpoint(ModelParts):
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
    taken, vae = parts["configs"]["unet"]["in_channels"], parts["configs"]["vae"]
    latent = vae["latent_channels"]
    if vae["_class_name"] == FEATURE_ENCODER and not vae.get("decoder_width"):
        message = "its vae is an image encoder without a decoder, as label diffusion models have"
        raise ExportError(message, hint="give it a decoder: decoder_width in vae/config.json, and trained weights")
    if taken != latent:
        message = f"the UNet takes {taken} channels, and the VAE's latents have {latent}: made for inpainting or edits"
        hint = "give the text-to-image model that it was made from"
        if taken == 2 * latent:
            hint += "; or, if it denoises label latents joined to image latents, rename unet to label_denoiser and add "
            hint += "label_codec/config.json, as docs/gs.md says"
        raise ExportError(message, hint=hint)
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
    folder = model.config if isinstance(model, SingleFile) else Path(model)
    codec = read_codec(folder, parts["configs"]["vae"], partial(parts["load"], "vae"))
    config = parts["configs"]["label_denoiser"]
    expected = codec.channels + parts["configs"]["vae"]["latent_channels"], codec.channels
    if (config["in_channels"], config["out_channels"]) != expected:
        raise ExportError(
            subject=folder / "label_denoiser",
            expected=f"{expected[0]} channels in (label and image latents) and {expected[1]} out",
            got=f"{config['in_channels']} in and {config['out_channels']} out",
            hint="check label_codec/config.json",
        )
    return LabelCheckpoint(**parts, codec=codec)


def reopen(checkpoint: PartsT, dtype: torch.dtype | None) -> PartsT:
    """The same checkpoint with no part loaded, and weights brought to another type; see `load_checkpoint`."""
    return replace(checkpoint, load=_loader(checkpoint.model, checkpoint.configs, dtype))


def _open_parts(model: Model, denoiser: str, dtype: torch.dtype | None) -> dict[str, Any]:
    """Open the parts of `ModelParts`, by name.

    Raises:
        ExportError: something is missing, or of another kind than it should be.
    """
    read = read_configs(model, denoiser)
    configs = {part: _complete(part, config) for part, config in read.parts.items()}
    _check_size(read.folder / denoiser, configs[denoiser])
    tokenizers = {
        kind.tokenizer: _read_tokenizer(read.folder / kind.tokenizer, configs[kind.part]["max_position_embeddings"])
        for kind in read.family.text_encoders
    }
    if len({json.dumps(tokenizer.get_vocab(), sort_keys=True) for tokenizer in tokenizers.values()}) > 1:
        raise ExportError(f"the tokenizers in {read.folder} have different vocabularies", hint=HINT)
    return {
        "model": model,
        "load": _loader(model, configs, dtype),
        "configs": configs,
        "scheduler_config": read.scheduler_config,
        "model_index": read.model_index,
        "family": read.family,
        "tokenizers": tokenizers,
    }


def _loader(model: Model, configs: Mapping[str, Mapping[str, Any]], dtype: torch.dtype | None) -> Load:
    """Return a function that loads the parts of a model, each once."""

    @cache
    def load(part: str) -> nn.Module:
        kind, wanted = _find_class(part, configs[part]), torch.float32 if part == "vae" else dtype
        if isinstance(model, SingleFile):
            return load_part(kind, model, part, wanted)
        return load_weights(kind, Path(model), part, wanted)

    return load


def _complete(part: str, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a part, with its class's defaults for what it leaves out."""
    if part.startswith("text_encoder"):
        return CLIPTextConfig().to_dict() | config
    kind = _find_class(part, config)
    whole, *_ = kind.extract_init_dict(config)
    return {"_class_name": kind.__name__, **whole}


def _find_class(part: str, config: Mapping[str, Any]) -> Any:
    """The class of a part: the one that its configuration names, else the usual one."""
    return _CLASSES[config.get("_class_name") or CLASSES[part]]


def _check_size(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ExportError where a denoiser does not say what size of latents it was trained on."""
    size = config["sample_size"]
    if not isinstance(size, int) or size < 1:
        raise ExportError(
            subject=folder / "config.json",
            expected="a sample_size of one side of the latents in numbers",
            got=repr(size),
            hint="set sample_size: 64 for a model of 512 pixels, 96 for 768, 128 for 1024",
        )


def _read_tokenizer(folder: Path, positions: int) -> CLIPTokenizer:
    """Read a tokenizer.

    Args:
        folder: its files.
        positions: how many tokens its text encoder has a place for; the length where the files do not say one.

    Raises:
        ExportError: it cannot be read, or writes longer texts.
    """
    try:
        with readable_texts(folder) as clean:
            tokenizer = cast(CLIPTokenizer, CLIPTokenizer.from_pretrained(clean, local_files_only=True))
    except Exception as error:  # tokenizers' own errors have no other base
        message = f"{folder} holds no CLIP tokenizer (vocab.json and merges.txt) that can be read: {error}"
        raise ExportError(message, hint=HINT) from error
    if tokenizer.model_max_length > _UNKNOWN_LENGTH:
        tokenizer.model_max_length = positions
    if not isinstance(positions, int) or not 2 <= tokenizer.model_max_length <= positions:
        message = (
            f"{folder} has a model_max_length of {tokenizer.model_max_length}, "
            f"and its text encoder has max_position_embeddings {positions}"
        )
        raise ExportError(message, hint="correct model_max_length in tokenizer_config.json")
    return tokenizer
