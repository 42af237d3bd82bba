"""Settings of a diffusers scheduler: what its `scheduler_config.json` says, and its class's defaults for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segrefine.errors import SettingsError

_NOISE = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "prediction_type": "epsilon",
}  # fmt: skip
_NARROW_NOISE = _NOISE | {"beta_start": 0.00085, "beta_end": 0.012}
_LEADING = {"timestep_spacing": "leading", "steps_offset": 0}
_LINSPACE = {"timestep_spacing": "linspace", "steps_offset": 0}
_CLIPPED = {"clip_sample": True, "clip_sample_range": 1.0}
_UNCLIPPED = {"clip_sample": False, "clip_sample_range": 1.0}
_RESCALE = {"rescale_betas_zero_snr": False}
_THRESHOLD = {"thresholding": False}
_FLOW = {"use_flow_sigmas": False}

_DDPM = _NOISE | _LEADING | _CLIPPED | _RESCALE | _THRESHOLD
_DDIM = _DDPM | {"set_alpha_to_one": True}
_CONSISTENCY = _DDIM | _NARROW_NOISE | _UNCLIPPED | {"beta_schedule": "scaled_linear"}
_SOLVER = _NOISE | _LINSPACE | _THRESHOLD | _FLOW
_EULER = _NOISE | _LINSPACE | _RESCALE
_KDPM2 = _NARROW_NOISE | _LINSPACE

SCHEDULERS: Mapping[str, Mapping[str, Any]] = {
    "DDIMScheduler": _DDIM,
    "DDIMParallelScheduler": _DDIM,
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "PNDMScheduler": _NOISE | _LEADING | {"set_alpha_to_one": False},
    "LCMScheduler": _CONSISTENCY,
    "TCDScheduler": _CONSISTENCY,
    "EulerDiscreteScheduler": _EULER,
    "EulerAncestralDiscreteScheduler": _EULER,
    "LMSDiscreteScheduler": _NOISE | _LINSPACE,
    "HeunDiscreteScheduler": _KDPM2 | _UNCLIPPED,
    "KDPM2DiscreteScheduler": _KDPM2,
    "KDPM2AncestralDiscreteScheduler": _KDPM2,
    "DPMSolverMultistepScheduler": _SOLVER | _RESCALE,
    "DPMSolverSinglestepScheduler": _NOISE | _THRESHOLD | _FLOW,
    "DEISMultistepScheduler": _SOLVER,
    "UniPCMultistepScheduler": _SOLVER | _RESCALE,
    "SASolverScheduler": _SOLVER,
}
"""The classes of diffusers whose noise is a DDPM's: the settings that each takes, with their defaults."""

_FIXED = _UNCLIPPED | _LINSPACE | _RESCALE | _THRESHOLD | _FLOW | {"set_alpha_to_one": True}
"""How a class behaves that lacks one of these settings."""


def complete_schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a scheduler's configuration with the defaults of its class.

    A setting that the class does not take is ignored, as diffusers ignores it.

    Args:
        config: content of a `scheduler_config.json`. Without `_class_name` it is read as DDIMScheduler's.

    Returns:
        The configuration with a value for every setting of `DDIMScheduler` that shapes noise or timesteps.

    Raises:
        SettingsError: the class is unknown, or its noise is not a DDPM's.
    """
    kind = str(config.get("_class_name") or "DDIMScheduler")
    if kind not in SCHEDULERS or config.get("use_flow_sigmas"):
        raise _unknown(kind)
    taken = SCHEDULERS[kind]
    settings = _FIXED | dict(taken) | {name: config[name] for name in taken if name in config}
    if settings["thresholding"]:
        raise SettingsError(
            "dynamic thresholding is for pixel models", hint="set thresholding to false in the scheduler config"
        )
    return dict(config) | {name: value for name, value in settings.items() if name in _DDIM}


def _unknown(kind: str) -> SettingsError:
    if kind.startswith(("FlowMatch", "EDM")) or kind in SCHEDULERS:
        message = f"the scheduler is {kind}, whose noise levels are not a DDPM's: the model was trained in another way"
        return SettingsError(message, hint="give a model of Stable Diffusion 1.x, 2.x or XL")
    return SettingsError(
        subject="_class_name",
        expected=f"one of {', '.join(SCHEDULERS)}",
        got=repr(kind),
        hint="save the model with one of these schedulers",
    )
