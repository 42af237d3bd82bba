"""Sampling and inversion against diffusers' schedulers of the same names, step by step."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler

from segrefine.errors import SettingsError
from segrefine.runtime.sampler import invert_ddim, sample_ddim, sample_dpm_solver, sample_lcm
from segrefine.runtime.schedule import Array, NoiseSchedule

MODELS: dict[str, dict[str, Any]] = {
    "sd": {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
        "set_alpha_to_one": False, "steps_offset": 1,
    },
    "diffusers defaults": {},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False, "num_train_timesteps": 400},
}  # fmt: skip
DPM_MODELS: dict[str, dict[str, Any]] = {
    "sd": {},
    "sd of 400": {"num_train_timesteps": 400, "steps_offset": 0},
    "zero snr": {"rescale_betas_zero_snr": True},
}
"""DPM-Solver knows neither clipping nor `set_alpha_to_one`: it always ends without noise."""
# diffusers keeps 1 − ᾱ in float32, off by up to 4e-5 of itself near timestep 0, where "sample" divides by its root.
TOLERANCES = {"epsilon": 1e-5, "v_prediction": 1e-5, "sample": 5e-5}
STEPS = (1, 4, 7, 20, 50)


def denoise(sample: Array, timestep: int) -> Array:
    """A stand-in for the network: smooth, bounded, and different at every timestep and channel."""
    tilt = np.linspace(-1, 1, sample.shape[1], dtype=sample.dtype).reshape(-1, 1, 1)
    return np.tanh(0.7 * np.roll(sample, 1, axis=-1) + tilt * np.float32(np.sin(0.01 * timestep)))


def start() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((2, 4, 6, 5)).astype(np.float32)


def trace_of(
    sampler: Any, sample: Array, schedule: NoiseSchedule, steps: int, **limits: int
) -> list[tuple[int, int, Array]]:
    trace: list[tuple[int, int, Array]] = []
    result = sampler(denoise, sample, schedule, steps, callback=lambda *step: trace.append(step), **limits)
    np.testing.assert_array_equal(result, trace[-1][2])
    return trace


def check_against(scheduler: Any, trace: list[tuple[int, int, Array]], sample: Array) -> None:
    """Walks diffusers' scheduler beside our trace. Each step starts from our sample, and is compared with its range."""
    assert [timestep for _, timestep, _ in trace] == scheduler.timesteps.tolist()
    for (index, timestep, ours), position in zip(trace, range(len(trace)), strict=True):
        output = denoise(sample, timestep)
        theirs = scheduler.step(torch.from_numpy(output), timestep, torch.from_numpy(sample)).prev_sample.numpy()
        assert index == position
        assert np.abs(ours - theirs).max() <= TOLERANCES[scheduler.config.prediction_type] * max(
            1.0, np.abs(theirs).max()
        )
        sample = ours


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction_type", TOLERANCES)
@pytest.mark.parametrize("model", MODELS)
def test_sampling_equals_diffusers(model: str, prediction_type: str, spacing: str) -> None:
    config = MODELS[model] | {"prediction_type": prediction_type, "timestep_spacing": spacing}
    schedule, scheduler = NoiseSchedule.from_config(config), DDIMScheduler(**config)
    for steps in STEPS:
        scheduler.set_timesteps(steps)
        check_against(scheduler, trace_of(sample_ddim, start(), schedule, steps), start())


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("model", MODELS)
def test_inversion_equals_diffusers(model: str, prediction_type: str, spacing: str) -> None:
    config = MODELS[model] | {"prediction_type": prediction_type, "timestep_spacing": spacing}
    schedule, scheduler = NoiseSchedule.from_config(config), DDIMInverseScheduler(**config)
    for steps in STEPS:
        scheduler.set_timesteps(steps)
        check_against(scheduler, trace_of(invert_ddim, start(), schedule, steps), start())


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction_type", TOLERANCES)
@pytest.mark.parametrize("model", DPM_MODELS)
def test_dpm_solver_equals_diffusers(model: str, prediction_type: str, spacing: str) -> None:
    """Diffusers' scheduler keeps what it needs of the step before, so that it sees our samples from the first on."""
    config = MODELS["sd"] | DPM_MODELS[model] | {"prediction_type": prediction_type, "timestep_spacing": spacing}
    if config.get("rescale_betas_zero_snr") and prediction_type == "epsilon":
        pytest.skip("such a schedule is refused: at its end the noise says nothing of the image")
    schedule, scheduler = NoiseSchedule.from_config(config), DPMSolverMultistepScheduler.from_config(config)
    for steps in STEPS:
        scheduler.set_timesteps(steps)
        check_against(scheduler, trace_of(sample_dpm_solver, start(), schedule, steps), start())


def test_dpm_solver_converges_faster_than_ddim() -> None:
    """To the same end: the network of a Gaussian of spread 0.5, whose exact flow only scales the sample."""
    schedule = NoiseSchedule.from_config(MODELS["sd"] | {"timestep_spacing": "trailing", "set_alpha_to_one": True})

    def gaussian(sample: Array, timestep: int) -> Array:
        alpha = schedule.alphas_cumprod[timestep]
        return np.asarray(np.sqrt(1 - alpha) * sample / (1 - alpha + alpha * 0.25), np.float32)

    exact = start() * 0.5 / np.sqrt(1 - 0.75 * schedule.alphas_cumprod[-1])
    off = {
        sampler: [np.abs(sampler(gaussian, start(), schedule, steps) - exact).max() for steps in (5, 10, 20)]
        for sampler in (sample_ddim, sample_dpm_solver)
    }
    assert all(fast < slow for fast, slow in zip(off[sample_dpm_solver], off[sample_ddim], strict=True))
    assert off[sample_dpm_solver][2] < 0.5 * off[sample_dpm_solver][1] < 0.3 * off[sample_dpm_solver][0]


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 50])
@pytest.mark.parametrize("prediction_type", TOLERANCES)
def test_lcm_equals_diffusers(prediction_type: str, steps: int) -> None:
    config = MODELS["sd"] | {"prediction_type": prediction_type}
    schedule, scheduler = NoiseSchedule.from_config(config), LCMScheduler(**config)
    scheduler.set_timesteps(steps)
    torch.manual_seed(7)  # from here diffusers will draw the same noise
    noise = np.array([torch.randn(start().shape).numpy() for _ in range(steps - 1)])
    torch.manual_seed(7)
    check_against(scheduler, trace_of(partial(sample_lcm, noise=noise), start(), schedule, steps), start())


@pytest.mark.parametrize("steps", [0, 51])
def test_lcm_takes_no_more_steps_than_were_distilled(steps: int) -> None:
    with pytest.raises(SettingsError, match="expected 1 to 50 steps"):
        NoiseSchedule.from_config(MODELS["sd"]).lcm_timesteps(steps)


def test_whole_trajectory_stays_with_diffusers() -> None:
    config = MODELS["sd"] | {"prediction_type": "v_prediction"}
    schedule, scheduler = NoiseSchedule.from_config(config), DDIMScheduler(**config)
    scheduler.set_timesteps(50)
    theirs = torch.from_numpy(start())
    for timestep in scheduler.timesteps:
        theirs = scheduler.step(
            torch.from_numpy(denoise(theirs.numpy(), int(timestep))), int(timestep), theirs
        ).prev_sample
    np.testing.assert_allclose(sample_ddim(denoise, start(), schedule, 50), theirs.numpy(), rtol=0, atol=1e-5)


def test_zero_terminal_snr_samples_from_pure_noise() -> None:
    config = MODELS["sd"] | {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    schedule, scheduler = NoiseSchedule.from_config(config), DDIMScheduler(**config)
    scheduler.set_timesteps(20)
    check_against(scheduler, trace_of(sample_ddim, start(), schedule, 20), start())


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_loop_to_the_middle_and_back_returns(prediction_type: str) -> None:
    schedule = NoiseSchedule.from_config(MODELS["sd"] | {"prediction_type": prediction_type})
    there = trace_of(invert_ddim, start(), schedule, 100, end=405)
    back = trace_of(sample_ddim, there[-1][2], schedule, 100, start=405)
    assert [timestep for _, timestep, _ in there] == list(range(1, 405, 10))
    assert [timestep for _, timestep, _ in back] == list(range(401, 0, -10))
    moved, left = np.abs(there[-1][2] - start()).mean(), np.abs(back[-1][2] - start()).mean()
    assert left < 0.1 * moved


def test_a_network_that_knows_the_noise_is_inverted_exactly() -> None:
    schedule = NoiseSchedule.from_config(MODELS["sd"] | {"set_alpha_to_one": True})
    clean, noise = start(), np.random.default_rng(6).standard_normal((2, 4, 6, 5)).astype(np.float32)
    noisy = invert_ddim(lambda sample, timestep: noise, clean, schedule, 10, end=500)
    np.testing.assert_allclose(noisy, schedule.add_noise(clean, noise, 401), atol=1e-5)
    np.testing.assert_allclose(
        sample_ddim(lambda sample, timestep: noise, noisy, schedule, 10, start=401), clean, atol=1e-5
    )
