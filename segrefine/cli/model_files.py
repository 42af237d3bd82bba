"""What a file, given as a model, is in truth, and how a model is made of it; read without loading any weight."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from segrefine.errors import ExportError
from segrefine.reference.weight_files import read_header

_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_PARTS = {
    "denoiser": ("model.diffusion_model.",),
    "image codec": ("first_stage_model.",),
    "text encoder": ("cond_stage_model.", "conditioner.embedders."),
}
_KINDS = (
    ("a LoRA: changes to a model, not a model", ("lora_", ".lora", "lora."), "merge it first (`fuse_lora`)"),
    ("a ControlNet: an addition to a model, not a model", ("control_model.", "controlnet_"), "give the model itself"),
    (
        "a textual inversion: words for a model, not a model",
        ("emb_params", "string_to_param", "clip_l", "clip_g"),
        "give the model itself",
    ),
)


def holds_model(path: Path) -> bool:
    """Whether a file is a whole model: denoiser, image codec and text encoder, under their authors' names."""
    names = read_header(path) if path.suffix.lower() == ".safetensors" else None
    return names is not None and not _lacking(names)


def explain_file(path: Path) -> ExportError:
    """The error for a file that was given as a model, and is none; see `holds_model`.

    Args:
        path: a file that exists.
    """
    if path.suffix.lower() in _PICKLES:
        return ExportError(
            f"{path} is a pickle, and reading one runs whatever code is in it",
            hint=f"if you trust it, make a folder of it: {_conversion(path)}",
        )
    names = read_header(path) if path.suffix.lower() == ".safetensors" else None
    if names is None:
        return ExportError(f"{path} is no model", hint="give a folder that diffusers' save_pretrained wrote")
    for what, marks, hint in _KINDS:
        if any(mark in name for name in names for mark in marks):
            return ExportError(f"{path} holds {what}", hint=f"{hint}, then give its folder")
    if "denoiser" not in (lacking := _lacking(names)):
        return ExportError(f"{path} lacks the {' and the '.join(lacking)}", hint="give the whole model's file")
    return ExportError(
        f"{path} holds the weights of one part, such as {min(names, default='none')!r}",
        hint="give the model's whole folder, with model_index.json",
    )


def _lacking(names: Collection[str]) -> list[str]:
    """The parts of a model that tensors of these names are not."""
    return [part for part, marks in _PARTS.items() if not any(name.startswith(marks) for name in names)]


def _conversion(path: Path) -> str:
    code = f"from diffusers import *; StableDiffusionPipeline.from_single_file({str(path)!r}).save_pretrained('model')"
    return f'python -c "{code}" (StableDiffusionXLPipeline for one of that family)'
