"""The noise schedule against diffusers' own, and the settings that it refuses."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from segrefine.errors import SettingsError
from segrefine.runtime.schedule import NoiseSchedule

STABLE_DIFFUSION = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip
CONFIGS: list[dict[str, Any]] = [
    {},
    STABLE_DIFFUSION,
    STABLE_DIFFUSION | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 400},
    {"trained_betas": [0.01, 0.02, 0.05, 0.3], "num_train_timesteps": 4},
]
SPACINGS = ("leading", "trailing", "linspace")
TIMESTEPS = torch.tensor([3, 100, 640])


def batch(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 4, 5, 6)).astype(np.float32)


@pytest.mark.parametrize("config", CONFIGS)
def test_levels_equal_diffusers(config: dict[str, Any]) -> None:
    schedule, oracle = NoiseSchedule.from_config(config), DDIMScheduler(**config)
    np.testing.assert_allclose(schedule.alphas_cumprod, oracle.alphas_cumprod.numpy(), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(schedule.alphas_cumprod, oracle.alphas_cumprod.numpy(), rtol=0, atol=1e-6)
    assert schedule.final_alpha == pytest.approx(float(oracle.final_alpha_cumprod), abs=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_equal_diffusers_for_every_count(spacing: str) -> None:
    config = STABLE_DIFFUSION | {"timestep_spacing": spacing}
    schedule, oracle = NoiseSchedule.from_config(config), DDIMScheduler(**config)
    for steps in range(1, 1000):
        oracle.set_timesteps(steps)
        expected = oracle.timesteps.numpy()[:steps]  # diffusers overshoots to timestep −1 for some counts, such as 61
        np.testing.assert_array_equal(schedule.ddim_timesteps(steps), expected, err_msg=f"{steps} steps")


def test_trailing_steps_never_reach_below_zero() -> None:
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION | {"timestep_spacing": "trailing"})
    timesteps = schedule.ddim_timesteps(61)
    assert len(timesteps) == 61
    assert timesteps[-1] >= 0


def test_noise_equals_diffusers_with_one_timestep_per_sample() -> None:
    schedule, oracle = NoiseSchedule.from_config(STABLE_DIFFUSION), DDIMScheduler(**STABLE_DIFFUSION)
    noisy = schedule.add_noise(batch(0), batch(1), TIMESTEPS.numpy())
    expected = oracle.add_noise(torch.from_numpy(batch(0)), torch.from_numpy(batch(1)), TIMESTEPS)
    np.testing.assert_allclose(noisy, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_predictions_undo_add_noise(prediction_type: str) -> None:
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION | {"prediction_type": prediction_type})
    oracle = DDIMScheduler(**STABLE_DIFFUSION)
    clean, noise, at = batch(0), batch(1), TIMESTEPS.numpy()
    velocity = oracle.get_velocity(torch.from_numpy(clean), torch.from_numpy(noise), TIMESTEPS).numpy()
    output = {"epsilon": noise, "v_prediction": velocity, "sample": clean}[prediction_type]
    noisy = schedule.add_noise(clean, noise, at)
    np.testing.assert_allclose(schedule.predict_clean(output, noisy, at), clean, atol=2e-6)
    np.testing.assert_allclose(schedule.predict_noise(output, noisy, at), noise, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_of_the_sample_is_kept(dtype: type) -> None:
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION)
    assert schedule.add_noise(batch(0).astype(dtype), batch(1).astype(dtype), 500).dtype == dtype


def test_start_keeps_the_lower_timesteps() -> None:
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION)
    assert schedule.ddim_timesteps(10, start=301).tolist() == [301, 201, 101, 1]
    assert schedule.ddim_timesteps(10, start=300).tolist() == [201, 101, 1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule: expected one of linear"),
        ({"prediction_type": "flow"}, "prediction_type: expected one of epsilon"),
        ({"timestep_spacing": "even"}, "timestep_spacing: expected one of leading"),
        ({"thresholding": True}, "dynamic thresholding"),
        ({"rescale_betas_zero_snr": True}, "without any signal"),
        ({"trained_betas": [0.01, 0.02]}, "trained_betas: expected 1000 numbers, .* got 2"),
        ({"beta_end": 2}, "not shares of noise"),
        ({"beta_end": float("nan")}, "not shares of noise"),
        ({"num_train_timesteps": 0}, "not shares of noise"),
        ({"num_train_timesteps": 10.5}, "malformed"),
        ({"beta_start": None}, "malformed"),
        ({"steps_offset": "1"}, "malformed"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "whose noise levels"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "whose noise levels"),
        ({"_class_name": "IPNDMScheduler"}, "_class_name: expected one of DDIMScheduler, .* got 'IPNDMScheduler'"),
    ],
)
def test_refused_configs(config: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        NoiseSchedule.from_config(config)
    assert caught.value.hint


@pytest.mark.parametrize(("steps", "start"), [(0, None), (1001, None), (1000, None), (10, 0)])
def test_refused_steps(steps: int, start: int | None) -> None:
    with pytest.raises(SettingsError):
        NoiseSchedule.from_config(STABLE_DIFFUSION).ddim_timesteps(steps, start)


def test_defaults_are_those_of_diffusers() -> None:
    schedule, oracle = NoiseSchedule.from_config({}), DDIMScheduler().config
    assert schedule.prediction_type == oracle.prediction_type
    assert schedule.timestep_spacing == oracle.timestep_spacing
    assert schedule.steps_offset == oracle.steps_offset
    assert schedule.clip_range == oracle.clip_sample_range


def test_batched_and_single_timesteps_agree() -> None:
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION)
    for single, several in product([7, 999], [1, 3]):
        batched = schedule.add_noise(batch(0)[:several], batch(1)[:several], np.full(several, single))
        np.testing.assert_array_equal(batched, schedule.add_noise(batch(0)[:several], batch(1)[:several], single))
