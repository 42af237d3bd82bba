"""A checkpoint in a single safetensors file, as Stable Diffusion's authors and most communities give it out."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from segrefine.errors import ExportError
from segrefine.reference.weight_files import SingleFile

_HINT = "give --config a diffusers folder of the same architecture"


def configuration_of(file: Path) -> str:
    """The hub id of a model whose configuration and tokenizers fit the weights in a file.

    Raises:
        ExportError: the file cannot be read.
    """
    return str(single_file_utils.fetch_diffusers_config(_read(file))["pretrained_model_name_or_path"])


def load_part(kind: Any, source: SingleFile, part: str, dtype: torch.dtype | None) -> nn.Module:
    """One part of the model, in evaluation mode, without gradients.

    Args:
        kind: class of the part.
        source: the weights, and the folder with the part's configuration.
        part: its name, such as "unet".
        dtype: of all its weights; None leaves them as they are stored.

    Raises:
        ExportError: weights are missing, or do not fit the configuration.
    """
    weights = dict(_read(source.file))  # the conversions take out what they have used
    if dtype is None:
        dtype = next((each.dtype for each in weights.values() if each.is_floating_point()), torch.float32)
    options: dict[str, Any] = {"config": str(source.config), "subfolder": part, "torch_dtype": dtype}
    try:
        if issubclass(kind, PreTrainedModel):
            convert = single_file_utils.create_diffusers_clip_model_from_ldm
            model = convert(kind, checkpoint=weights, local_files_only=True, **options)
        else:
            model = kind.from_single_file(weights, local_files_only=True, **options)
    except NotImplementedError as error:  # what is left without weights cannot be moved
        raise ExportError(f"{source.file} lacks weights that its configuration has in {part}", hint=_HINT) from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ExportError(f"cannot load {part} from {source.file}: {error}", hint=_HINT) from error
    if missing := [name for name, weight in model.named_parameters() if weight.is_meta]:
        raise ExportError(f"{source.file} lacks the {part}'s {missing[0]}", hint=_HINT)
    return cast(nn.Module, model.to(dtype).eval().requires_grad_(False))


@cache
def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of the file, mapped."""
    try:
        return load_file(file)
    except Exception as error:  # of a class that safetensors does not let one import
        raise ExportError(f"cannot read {file}: {error}", hint="take the file again from where it came from") from error
