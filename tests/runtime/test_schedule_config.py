"""Scheduler configurations with settings left out, for every class that is accepted, against diffusers' own classes."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import numpy as np
import pytest

from segrefine.errors import SettingsError
from segrefine.runtime.schedule import NoiseSchedule
from segrefine.runtime.schedule_config import SCHEDULERS, complete_schedule

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers under the newest NumPy
STEPS = (1, 7, 50)
SOLVERS = ("DPMSolver", "DEIS", "UniPC", "SASolver")
UNUSUAL = {
    "num_train_timesteps": 800, "beta_start": 0.0007, "beta_end": 0.015, "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction", "timestep_spacing": "trailing", "steps_offset": 1,
    "clip_sample_range": 2.0, "rescale_betas_zero_snr": True,
    "skip_prk_steps": True,
}  # fmt: skip
"""A value other than the default of every class, so that what is left out shows."""


def settings_of(kind: str) -> dict[str, Any]:
    """The configuration that diffusers saves for a class under unusual settings."""
    scheduler = getattr(diffusers, kind)
    taken = inspect.signature(scheduler.__init__).parameters
    chosen = {name: value for name, value in UNUSUAL.items() if name in taken}
    for name in {"clip_sample", "set_alpha_to_one"} & taken.keys():
        chosen[name] = not taken[name].default
    if kind.startswith(("LCM", "TCD")):
        chosen["timestep_spacing"] = "leading"  # they have no other
    return dict(scheduler(**chosen).config) | {"_class_name": kind}


CASES = [(kind, name) for kind in SCHEDULERS for name in (None, *SCHEDULERS[kind])]


@pytest.mark.parametrize(("kind", "left_out"), CASES)
def test_what_a_config_leaves_out_is_its_class_s(kind: str, left_out: str | None) -> None:
    config = settings_of(kind)
    config.pop(left_out or "", None)
    if config.get("rescale_betas_zero_snr") and left_out == "prediction_type":
        with pytest.raises(SettingsError, match="without any signal"):
            NoiseSchedule.from_config(config)
        return
    schedule, theirs = NoiseSchedule.from_config(config), getattr(diffusers, kind).from_config(config)
    np.testing.assert_allclose(schedule.alphas_cumprod, theirs.alphas_cumprod.numpy(), rtol=0, atol=1e-6)
    final = float(getattr(theirs, "final_alpha_cumprod", 1.0))
    assert schedule.final_alpha == pytest.approx(final, abs=1e-6)
    assert schedule.prediction_type == theirs.config.prediction_type
    clips = theirs.config.get("clip_sample", False)
    assert schedule.clip_range == (theirs.config.clip_sample_range if clips else None)
    for steps in STEPS:
        np.testing.assert_allclose(ours(kind, schedule, steps), timesteps_of(theirs, steps), rtol=0, atol=1e-6)


def ours(kind: str, schedule: NoiseSchedule, steps: int) -> np.ndarray:
    if kind.startswith(("LCM", "TCD")):
        return schedule.lcm_timesteps(steps)
    return schedule.dpm_timesteps(steps) if kind.startswith(SOLVERS) else schedule.ddim_timesteps(steps)


def timesteps_of(scheduler: Any, steps: int) -> np.ndarray:
    """Whole timesteps, falling, each once. Samplers in between repeat some, and Euler's need not be whole."""
    scheduler.set_timesteps(steps)
    timesteps = np.asarray(scheduler.timesteps, np.float64)
    if (kind := type(scheduler).__name__).startswith("KDPM2"):  # between two timesteps lies one of its own
        timesteps = np.append(timesteps[0], timesteps[1 if "Ancestral" in kind else 2 :: 2])
    return np.unique(timesteps.round())[::-1]


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_table_is_diffusers(kind: str) -> None:
    parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters
    known = set().union(*SCHEDULERS.values())
    assert {name: each.default for name, each in parameters.items() if name in known} == SCHEDULERS[kind]


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_complete_config_is_read_alike_by_both(kind: str) -> None:
    """The reference samples by DDIM, whatever the class, from the configuration that the bundle gets."""
    complete = complete_schedule({"_class_name": kind, "set_alpha_to_one": False, "clip_sample": True})
    assert complete_schedule(complete) == complete
    schedule, theirs = NoiseSchedule.from_config(complete), diffusers.DDIMScheduler.from_config(complete)
    np.testing.assert_allclose(schedule.alphas_cumprod, theirs.alphas_cumprod.numpy(), rtol=0, atol=1e-6)
    assert schedule.final_alpha == pytest.approx(float(theirs.final_alpha_cumprod), abs=1e-6)
    assert (schedule.clip_range is not None) is theirs.config.clip_sample
    theirs.set_timesteps(10)
    np.testing.assert_array_equal(schedule.ddim_timesteps(10), theirs.timesteps.numpy())


def test_a_setting_that_the_class_ignores_is_ignored() -> None:
    euler = {"_class_name": "EulerDiscreteScheduler", "thresholding": True, "clip_sample": True}
    assert NoiseSchedule.from_config(euler).clip_range is None
    with pytest.raises(SettingsError, match="dynamic thresholding"):
        NoiseSchedule.from_config(euler | {"_class_name": "DDIMScheduler"})
