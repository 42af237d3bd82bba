"""What a file, given as a model, is in truth, and how a model is made of it; read without loading any weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segrefine.errors import ExportError

_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_LONGEST_HEADER = 100 << 20
_KINDS = (
    ("a LoRA: changes to a model, not a model", ("lora_", ".lora", "lora."), "merge it first (`fuse_lora`)"),
    ("a ControlNet: an addition to a model, not a model", ("control_model.", "controlnet_"), "give the model itself"),
    (
        "a textual inversion: words for a model, not a model",
        ("emb_params", "string_to_param", "clip_l", "clip_g"),
        "give the model itself",
    ),
)


def explain_file(path: Path) -> ExportError:
    """The error for a file that was given as a model; a model is a folder.

    Args:
        path: a file that exists.
    """
    if path.suffix.lower() in _PICKLES:
        return ExportError(
            f"{path} is a pickle, and reading one runs whatever code is in it",
            hint=f"if you trust it, make a folder of it: {_conversion(path)}",
        )
    names = _tensor_names(path) if path.suffix.lower() == ".safetensors" else None
    if names is None:
        return ExportError(f"{path} is no model", hint="give a folder that diffusers' save_pretrained wrote")
    for what, marks, hint in _KINDS:
        if any(mark in name for name in names for mark in marks):
            return ExportError(f"{path} holds {what}", hint=f"{hint}, then give its folder")
    if any(name.startswith("model.diffusion_model.") for name in names):
        message = f"{path} is a model in a single file, and a model is given as a folder"
        return ExportError(message, hint=f"make a folder of it: {_conversion(path)}")
    return ExportError(
        f"{path} holds the weights of one part, such as {min(names, default='none')!r}",
        hint="give the model's whole folder, with model_index.json",
    )


def _conversion(path: Path) -> str:
    code = f"from diffusers import *; DiffusionPipeline.from_single_file({str(path)!r}).save_pretrained('model')"
    return f'python -c "{code}"'


def _tensor_names(path: Path) -> list[str] | None:
    """The names of a safetensors file's tensors; None where it is none."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > min(_LONGEST_HEADER, path.stat().st_size):
            return None
        try:
            header: Any = json.loads(file.read(size))
        except ValueError:
            return None
    return [name for name in header if name != "__metadata__"] if isinstance(header, dict) else None
