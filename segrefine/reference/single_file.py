"""A checkpoint in a single safetensors file, as Stable Diffusion's authors and most communities give it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from diffusers.loaders import single_file_utils
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from segrefine.errors import ExportError
from segrefine.reference.scales import expand_shape, find_scales, is_scale
from segrefine.reference.weight_files import SingleFile, is_idle, read_part_header
from segrefine.storage import read_json_object

_HINT = "give --config a diffusers folder of the same architecture"
_UNUSED = "it would be left out: take it out of the file if the model works without it"
_TYPES = ((torch.float64, torch.float32), (torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.float16,) * 2)
_TEXT_FOLDERS = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.0.model.", "conditioner.embedders.1.model.")

Weights = dict[str, Tensor]
Convert = Callable[[Weights], Weights]


def configuration_of(file: Path) -> str:
    """The hub id of a model whose configuration and tokenizers fit the weights in a file.

    Raises:
        ExportError: the file cannot be read.
    """
    weights = {_rename(name): each for name, each in _read(file).items()}
    return str(single_file_utils.fetch_diffusers_config(weights)["pretrained_model_name_or_path"])


def load_part(kind: Any, source: SingleFile, part: str, dtype: torch.dtype | None) -> nn.Module:
    """One part of the model, in evaluation mode, without gradients.

    Args:
        kind: class of the part.
        source: the weights, and the folder with the part's configuration.
        part: its name, such as "unet".
        dtype: of all its weights; None is the widest that is stored.

    Raises:
        ExportError: weights are missing, do not fit the configuration, or would be left out.
    """
    config = read_json_object(source.config / part / "config.json", ExportError, hint=_HINT)
    stored = _weights_of(source, part)
    try:
        with init_empty_weights():
            text = issubclass(kind, PreTrainedModel)
            model = kind(kind.config_class.from_dict(config)) if text else kind.from_config(config)
        convert = _conversion(kind, model, part)
        origins = _trace(convert, stored)
        weights = convert(dict(stored))  # the conversions take out what they have used
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, StrictDataclassError) as error:
        message = f"cannot load {part} from {source.file}: {type(error).__name__}: {error}"
        raise ExportError(message, hint=_HINT) from error
    _check(model, weights, origins, stored, source.file, part)
    if dtype is None:
        dtype = _widest(stored)
    wanted = {name: each.to(dtype).contiguous() for name, each in weights.items() if name in model.state_dict()}
    model.load_state_dict(wanted, strict=False, assign=True)
    return cast(nn.Module, model.to(dtype).eval().requires_grad_(False))


def _weights_of(source: SingleFile, part: str) -> Weights:
    """The tensors of a part, 8-bit ones times their scales, under the names that diffusers knows."""
    header = read_part_header(source, part)
    read, scales = _read(source.file), find_scales(header)
    weights = {}
    for name in header:
        if is_scale(name):
            continue
        weight = read[name]
        if name in scales:
            weight = _scaled(weight, read[scales[name]], scales[name])
        weights[_rename(name)] = weight
    return weights


def _scaled(weight: Tensor, scale: Tensor, name: str) -> Tensor:
    """A weight in 8 bits times its scale, float32."""
    shape, block = expand_shape(name, scale.shape, weight.shape)
    factor = scale.float().reshape(shape)
    for axis, (count, size) in enumerate(zip(block, weight.shape, strict=True)):
        factor = factor.repeat_interleave(count, axis).narrow(axis, 0, size)
    return weight.float() * factor


def _rename(name: str) -> str:
    """The name that diffusers knows for a text encoder's tensor: some programs leave `text_model.` out of it."""
    for folder in (*_TEXT_FOLDERS, "conditioner.embedders.1.transformer."):
        rest = name.removeprefix(folder)
        if rest != name and rest.startswith(("embeddings.", "encoder.", "final_layer_norm.")):
            return f"{folder}text_model.{rest}"
    return name


def _conversion(kind: Any, model: nn.Module, part: str) -> Convert:
    """Return the conversion of tensors from their authors' names to those of diffusers or transformers."""
    config = cast(Any, model).config
    if kind.__name__ == "UNet2DConditionModel":
        return partial(single_file_utils.convert_ldm_unet_checkpoint, config=config)
    if kind.__name__ == "AutoencoderKL":
        return partial(single_file_utils.convert_ldm_vae_checkpoint, config=config)
    return partial(_convert_text, model)


def _convert_text(model: nn.Module, weights: Weights) -> Weights:
    """CLIP's or OpenCLIP's tensors under the names of a model in transformers.

    Raises:
        ValueError: they are of neither.
    """
    if prefix := next((each for each in _OPEN_CLIP if any(name.startswith(each) for name in weights)), None):
        converted = single_file_utils.convert_open_clip_checkpoint(model, weights, prefix=prefix)
    elif any(".transformer." in name for name in weights):
        folder = "conditioner.embedders.1.transformer."
        converted = single_file_utils.convert_ldm_clip_checkpoint(weights, remove_prefix=folder)
    else:
        raise ValueError("the file holds no text encoder of CLIP or OpenCLIP")
    if hasattr(model, "text_model"):
        return dict(converted)
    # transformers dropped this level of CLIPTextModel in version 5.6
    return {name.removeprefix("text_model."): each for name, each in converted.items()}


def _trace(convert: Convert, weights: Weights) -> dict[str, str]:
    """Map each name that a conversion gives to its stored tensor.

    The conversion is run on stand-ins that hold nothing but their tensor's number, and take no memory.
    """
    names = list(weights)
    standins = {
        name: torch.full((), number, dtype=torch.int16).expand(weights[name].shape) for number, name in enumerate(names)
    }
    converted = {name: each for name, each in convert(standins).items() if each.numel()}
    return {name: names[int(each[(0,) * each.ndim])] for name, each in converted.items()}


def _check(
    model: nn.Module, weights: Mapping[str, Tensor], origins: Mapping[str, str], stored: Weights, file: Path, part: str
) -> None:
    """Raise ExportError where weights are missing, of another shape, or would be left out."""
    expected = model.state_dict()
    for name, parameter in model.named_parameters():
        if name not in weights:
            raise ExportError(f"{file} lacks the {part}'s {name}", hint=_HINT)
        if weights[name].shape != parameter.shape:
            shapes = f"{tuple(weights[name].shape)}, and the configuration asks for {tuple(parameter.shape)}"
            message = f"cannot load {part} from {file}: {origins[name]} has the shape {shapes}"
            raise ExportError(message, hint=_HINT)
    used = {origin for name, origin in origins.items() if name in expected}
    if unused := sorted(name for name in stored.keys() - used if not is_idle(part, name)):
        raise ExportError(f"{file}: the {part} has no place for the tensor {unused[0]}", hint=_UNUSED)


def _widest(weights: Mapping[str, Tensor]) -> torch.dtype:
    """The widest type of floats; half precision holds all 8-bit floats without error."""
    stored = {each.dtype for each in weights.values()}
    return next((dtype for kind, dtype in _TYPES if kind in stored), torch.float16)


@cache
def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of the file, mapped."""
    try:
        return load_file(file)
    except Exception as error:  # of a class that safetensors does not let one import
        raise ExportError(f"cannot read {file}: {error}", hint="take the file again from where it came from") from error
