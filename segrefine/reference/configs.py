"""A checkpoint's configurations, read and checked; all that can be known of its files before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrefine.errors import ExportError, SettingsError
from segrefine.reference.branches import check_branches
from segrefine.reference.families import FAMILIES, Family, find_family
from segrefine.reference.prediction import apply_prediction, check_levels
from segrefine.reference.scales import check_quantization, find_scales, is_quantized, is_scale
from segrefine.reference.weight_files import Model, SingleFile, find_strangers, read_part_header
from segrefine.runtime.schedule import NoiseSchedule
from segrefine.runtime.schedule_config import complete_schedule
from segrefine.storage import read_json_object

CLASSES = {
    "unet": "UNet2DConditionModel", "label_denoiser": "UNet2DConditionModel", "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection",
}  # fmt: skip
"""The names of the parts' classes."""
SMALL_VAE = "AutoencoderTiny"
"""Class that any model can have as its `vae`: a small image codec, such as TAESD."""
FEATURE_ENCODER = "FeatureEncoder"
"""Class that our own models have as their `vae`; see `segrefine.reference.image_encoder`."""

HINT = "give a folder that diffusers' save_pretrained wrote for Stable Diffusion 1.x, 2.x or XL, or `photo`"

CONTEXT = "caption_context"
"""The entry of `model_index.json` that is true where a model was trained on phrases in their captions."""

_OTHER_PARTS = {
    "scheduler", "tokenizer", "tokenizer_2", "label_codec",
    "safety_checker", "feature_extractor", "image_encoder",  # these look at pictures; the method does not need them
}  # fmt: skip
_TYPES = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64"}
"""What weights are stored in, in safetensors' words; integers are the positions that older text encoders hold."""

_NOT_QUANTIZED = "give the model as it was before, in float16 or float32"
_SCHEDULE = "scheduler/scheduler_config.json"


@dataclass(frozen=True, kw_only=True)
class Configs:
    """Configuration files of a checkpoint.

    Attributes:
        folder: where they are.
        model_index: pipeline class and parts, as in `model_index.json`.
        scheduler_config: the noise schedule, as in `scheduler/scheduler_config.json`.
        parts: the configuration of each part, as it is in its file.
        family: what it needs that others do not.
    """

    folder: Path
    model_index: dict[str, Any]
    scheduler_config: dict[str, Any]
    parts: dict[str, dict[str, Any]]
    family: Family


def read_configs(model: Model, denoiser: str | None = None) -> Configs:
    """Read the configuration files of a model; the weights' headers are checked.

    Args:
        model: its diffusers folder, or its single file.
        denoiser: "unet" or "label_denoiser"; None is the one that it looks to have.

    Raises:
        ExportError: something is missing, cut short, or of another kind than it should be.
    """
    folder = model.config if isinstance(model, SingleFile) else Path(model)
    denoiser = denoiser or ("label_denoiser" if is_label_checkpoint(model) else "unet")
    model_index = _read_json(folder, "model_index.json")
    check_branches(folder, denoiser)
    _check_pipeline(folder, model_index)
    scheduler_config = _read_schedule(model, folder)
    parts = {denoiser: _read_part(folder, denoiser)}
    family = find_family(parts[denoiser], model_index)
    for kind in family.text_encoders:
        parts[kind.part] = _read_part(folder, kind.part)
    parts["vae"] = _read_part(folder, "vae", SMALL_VAE, FEATURE_ENCODER)
    if isinstance(model, SingleFile) and (strange := find_strangers(model.file, parts)):
        message = f"{model.file} holds the tensor {strange[0]}, which is of no part of {family.name}"
        raise ExportError(message, hint="it would be left out: take it out of the file if the model works without it")
    for part, config in parts.items():
        _check_weights(model, part, config)  # what is missing is better known now than when the part is read
    return Configs(
        folder=folder, model_index=model_index, scheduler_config=scheduler_config, parts=parts, family=family
    )


def is_label_checkpoint(model: Model) -> bool:
    """Return whether a model looks like a label diffusion model."""
    return not isinstance(model, SingleFile) and (Path(model) / "label_denoiser").is_dir()


def _check_pipeline(folder: Path, model_index: Mapping[str, Any]) -> None:
    """Raises ExportError where a pipeline has parts that would be left out. Its class alone says little of it."""
    # a part that a pipeline does without is listed as [null, null]
    listed = {name for name, value in model_index.items() if isinstance(value, list) and value and value[0]}
    if not (strange := sorted(listed - CLASSES.keys() - _OTHER_PARTS)):
        return
    message = f"{folder} holds a {model_index.get('_class_name', 'pipeline')}, with {' and '.join(strange)}"
    if "unet" in listed:
        hint = f"give the model that it was made from; to do without {strange[0]}, take that out of model_index.json"
        raise ExportError(message, hint=hint)
    raise ExportError(message, hint=f"segrefine takes {', '.join(family.name for family in FAMILIES)}")


def _read_schedule(model: Model, folder: Path) -> dict[str, Any]:
    """Read the noise schedule; settings that it leaves out have its class's defaults.

    Raises:
        ExportError: the file is missing, or is of a kind that the runtime does not know. Or a single file says
            something else of itself.
    """
    file = folder / _SCHEDULE
    config = _read_json(folder, _SCHEDULE)
    try:
        config = complete_schedule(config)
        if isinstance(model, SingleFile):
            config = apply_prediction(model, config)
        schedule = NoiseSchedule.from_config(config)
    except SettingsError as error:
        raise ExportError(str(error), subject=file, hint=error.hint or HINT) from error
    if isinstance(model, SingleFile):
        check_levels(model, file, schedule.alphas_cumprod)
    return config


def pixels_per_latent(config: Mapping[str, Any]) -> int:
    """Image pixels per latent pixel along one side, by the configuration of what encodes images."""
    if config.get("scale_factor"):
        return int(config["scale_factor"])
    blocks = config.get("block_out_channels") or config["decoder_block_out_channels"]  # AutoencoderTiny has the latter
    return int(2 ** (len(blocks) - 1))


def _read_part(folder: Path, part: str, *others: str) -> dict[str, Any]:
    """The configuration of a part.

    Args:
        folder: of the checkpoint.
        part: its name.
        others: classes that it can have as well.

    Raises:
        ExportError: it is missing, or of another class than the part should be.
    """
    accepted = (CLASSES[part], *others)
    config = _read_json(folder, f"{part}/config.json")
    found = config.get("_class_name") or (config.get("architectures") or ["nothing"])[0]
    if found not in accepted:
        raise ExportError(subject=folder / part, expected=" or ".join(accepted), got=found, hint=HINT)
    return config


def _check_weights(model: Model, part: str, config: Mapping[str, Any]) -> None:
    """Check that a part's weights are there, whole, and numbers that mean what they say.

    Raises:
        ExportError: they are not.
    """
    place = model.file if isinstance(model, SingleFile) else Path(model) / part
    header = read_part_header(model, part)
    if config.get("quantization_config"):
        message = f"it holds quantized weights of the {part}: its config.json has a quantization_config"
        raise ExportError(message, subject=place, hint=_NOT_QUANTIZED)
    if isinstance(model, SingleFile):
        check_quantization(model.file, header)
        find_scales(header)
    elif scale := next(filter(is_quantized, header), None):
        message = f"it holds quantized weights of the {part}: {scale} beside them"
        raise ExportError(message, subject=place, hint=_NOT_QUANTIZED)
    for name, stored in header.items():
        if stored.dtype not in _TYPES and not is_scale(name):
            raise ExportError(
                f"it holds quantized weights of the {part}",
                subject=place,
                expected=f"{name} in floating-point numbers",
                got=stored.dtype,
                hint=_NOT_QUANTIZED,
            )


def _read_json(folder: Path, relative: str) -> dict[str, Any]:
    file = folder / relative
    if not file.is_file():
        raise ExportError(f"{relative} is missing", subject=folder, expected="a diffusers checkpoint", hint=HINT)
    return read_json_object(file, ExportError, hint=HINT)
