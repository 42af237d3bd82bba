"""Kind of a file or a folder given as a model, and the remedy if it is another; no weight is loaded."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from segrefine.bundle import MANIFEST
from segrefine.errors import ExportError
from segrefine.reference.weight_files import read_header
from segrefine.storage import read_json_object

_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_PARTS = {
    "denoiser": ("model.diffusion_model.",),
    "image codec": ("first_stage_model.",),
    "text encoder": ("cond_stage_model.", "conditioner.embedders."),
}
_MODEL = "a whole model"
_GIVE_MODEL = "give the model itself, without it"
_MERGE = "merge it into its model first (diffusers' `fuse_lora`, then `save_pretrained`), and give that folder"
_KINDS = (
    ("a LoRA: changes to a model, not a model", ("lora_", ".lora", "lora."), _MERGE),
    ("a LyCORIS adapter: changes to a model, not a model", ("hada_w", "lokr_w", "oft_"), _MERGE),
    (
        "a ControlNet: an addition to a model, not a model",
        ("control_model.", "controlnet_", "zero_convs.", "input_hint_block."),
        _GIVE_MODEL,
    ),
    ("an IP-Adapter: an addition to a model, not a model", ("ip_adapter.", "image_proj."), _GIVE_MODEL),
    (
        "a transformer, such as those of Flux and Stable Diffusion 3",
        ("double_blocks.", "joint_blocks."),
        "segrefine takes Stable Diffusion 1.x, 2.x and XL",
    ),
    (
        "a textual inversion: words for a model, not a model",
        ("emb_params", "string_to_param", "clip_l", "clip_g"),
        _GIVE_MODEL,
    ),
)
_FOLDER = "give a folder that diffusers' save_pretrained wrote, with model_index.json"


def holds_model(path: Path) -> bool:
    """Return whether a file is a whole model: denoiser, image codec and text encoder, under their authors' names.

    Raises:
        ExportError: it is called safetensors, and is none or is truncated.
    """
    return path.suffix.lower() == ".safetensors" and not _lacking(read_header(path))


def explain_file(path: Path) -> ExportError:
    """The error for a file that was given as a model, and is none; see `holds_model`.

    Args:
        path: a file that exists.
    """
    if path.suffix.lower() in _PICKLES:
        return ExportError(
            "reading a pickle runs whatever code is in it",
            subject=path,
            expected="safetensors",
            got="a pickle",
            hint=f"if you trust it, make a folder of it: {_conversion(path)}",
        )
    if path.suffix.lower() == ".gguf":
        return ExportError(
            subject=path,
            expected="floating-point numbers in safetensors",
            got="quantized weights (GGUF)",
            hint="give the model as it was before, in float16 or float32",
        )
    if path.suffix.lower() != ".safetensors":
        return ExportError(
            subject=path, expected=_MODEL, got=f"a file {path.suffix or 'without a suffix'}", hint=_FOLDER
        )
    names = read_header(path)
    for what, marks, hint in _KINDS:
        if any(mark in name for name in names for mark in marks):
            return ExportError(subject=path, expected=_MODEL, got=what, hint=hint)
    if "denoiser" not in (lacking := _lacking(names)):
        return ExportError(
            f"the file lacks the {' and the '.join(lacking)}",
            subject=path,
            expected=_MODEL,
            hint="give the whole model's file",
        )
    return ExportError(
        subject=path,
        expected=_MODEL,
        got=f"the weights of one part, such as {min(names, default='none')!r}",
        hint="give the model's whole folder, with model_index.json",
    )


def is_model_folder(folder: Path) -> bool:
    """Return whether a folder says that it is a model as diffusers saves it."""
    return (folder / "model_index.json").is_file() and not (folder / MANIFEST).is_file()


def explain_folder(folder: Path) -> ExportError:
    """The error for a folder that was given as a model, and is none; see `is_model_folder`.

    Args:
        folder: a folder that exists.
    """
    if (folder / MANIFEST).is_file():
        return ExportError(
            subject=folder,
            expected="a checkpoint",
            got="a bundle, which was exported already",
            hint="give what it was exported from",
        )
    if (folder.parent / "model_index.json").is_file() and (folder / "config.json").is_file():
        return ExportError(
            subject=folder, expected=_MODEL, got="one part of it", hint=f"give the whole model: {folder.parent}"
        )
    kind = _class_of(folder / "config.json")
    if kind and kind.startswith("ControlNet"):
        return ExportError(
            subject=folder, expected=_MODEL, got="a ControlNet, an addition to a model", hint=_GIVE_MODEL
        )
    files = sorted(each for each in folder.iterdir() if each.is_file())
    weights = [each for each in files if each.suffix.lower() == ".safetensors"]
    if whole := next((each for each in weights if holds_model(each)), None):
        return ExportError(
            f"{whole.name} is a model", subject=folder, expected="a diffusers checkpoint", hint=f"give {whole}"
        )
    if kind:
        return ExportError(subject=folder, expected=_MODEL, got=f"a part of the class {kind}", hint=_FOLDER)
    if named := weights + [each for each in files if each.suffix.lower() in _PICKLES]:
        return explain_file(named[0])
    return ExportError("model_index.json is missing", subject=folder, expected="a diffusers checkpoint", hint=_FOLDER)


def _class_of(config: Path) -> str | None:
    """The class that a part's configuration names."""
    try:
        content = read_json_object(config, ExportError, hint=_FOLDER)
        return str(content.get("_class_name") or content["architectures"][0])
    except (ExportError, LookupError, TypeError):
        return None


def _lacking(names: Collection[str]) -> list[str]:
    """The parts of a model that tensors of these names are not."""
    return [part for part, marks in _PARTS.items() if not any(name.startswith(marks) for name in names)]


def _conversion(path: Path) -> str:
    code = f"from diffusers import *; StableDiffusionPipeline.from_single_file({str(path)!r}).save_pretrained('model')"
    return f'python -c "{code}" (StableDiffusionXLPipeline for one of that family)'
