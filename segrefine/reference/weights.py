"""A part of a checkpoint, loaded: weights stay in their file, mapped, as long as they are of the right type."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from segrefine.errors import ExportError
from segrefine.reference.weight_files import find_weights, read_header

_TYPES = {"F64": torch.float32, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_HINT = "take the part's files again from where they came from"


def weight_stem(kind: type[Any]) -> str:
    """What the names of weight files begin with, as transformers or diffusers writes them."""
    return "model" if issubclass(kind, PreTrainedModel) else "diffusion_pytorch_model"


def load_weights(kind: Any, folder: Path, dtype: torch.dtype | None) -> nn.Module:
    """The model of a folder, in evaluation mode, without gradients; a half-precision variant serves where it is alone.

    Args:
        kind: class of the model.
        folder: the part.
        dtype: of all its weights; None is the widest that is stored.

    Raises:
        ExportError: weights are missing, are others than the model's, or cannot be read.
    """
    variant, files = find_weights(folder, weight_stem(kind))
    if dtype is None:
        dtype = _stored_type(files)
    options: dict[str, Any] = {"variant": variant, "use_safetensors": True, "local_files_only": True}
    try:
        # "low CPU memory" is what maps the files and makes no random weights first
        model, report = kind.from_pretrained(
            folder, torch_dtype=dtype, low_cpu_mem_usage=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ExportError(f"cannot load {folder} as {kind.__name__}: {error}", hint=_HINT) from error
    # transformers computes position_ids itself; files of older versions hold them
    if missing := sorted(name for name in report["missing_keys"] if not name.endswith("position_ids")):
        raise ExportError(f"cannot load {folder} as {kind.__name__}: {missing[0]} is missing", hint=_HINT)
    return cast(nn.Module, model.eval().requires_grad_(False))


def _stored_type(files: Sequence[Path]) -> torch.dtype:
    """The widest type of floats in safetensors files."""
    stored = {entry["dtype"] for file in files for entry in (read_header(file) or {}).values()}
    return next((dtype for name, dtype in _TYPES.items() if name in stored), torch.float32)
