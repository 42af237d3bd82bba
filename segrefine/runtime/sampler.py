"""Samplers, and the inversion of DDIM: plain loops over a network. `segrefine.samplers` lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from segrefine.runtime.schedule import Array, NoiseSchedule

Denoise = Callable[[Array, int], Array]
"""`denoise(sample, timestep)`: the network's output, shaped like the sample."""

Callback = Callable[[int, int, Array], None]
"""`callback(step_index, timestep, sample)`, called with the sample that the step gave."""

MIN_ALPHA = 2.0**-24
"""Least share of signal that DPM-Solver reckons with, since it divides by it; the same as in diffusers."""

LCM_SIGMA, LCM_TIMESTEP_SCALE = 0.5, 10.0
"""How fast a latent consistency model lets go of its input; the values of the paper and of diffusers."""


def sample_ddim(
    denoise: Denoise,
    sample: Array,
    schedule: NoiseSchedule,
    steps: int,
    *,
    start: int | None = None,
    callback: Callback | None = None,
) -> Array:
    """The sample without its noise, after deterministic DDIM steps (arXiv 2010.02502, equation 12 with σ = 0).

    Args:
        denoise: the network; called with the timesteps, falling.
        sample: float (B, ...), at the noise level of the first timestep.
        schedule: the noise levels.
        steps: steps over the whole schedule.
        start: do only the steps from timesteps that are not above this one.
        callback: told of every step.

    Raises:
        SettingsError: see `NoiseSchedule.ddim_timesteps`.
    """
    timesteps, stride = schedule.ddim_timesteps(steps, start), schedule.stride(steps)
    for index, timestep in enumerate(timesteps.tolist()):
        output = denoise(sample, timestep)
        clean = schedule.predict_clean(output, sample, timestep)
        noise = schedule.predict_noise(output, sample, timestep)
        sample = schedule.add_noise(clean, noise, timestep - stride)
        if callback:
            callback(index, timestep, sample)
    return sample


def invert_ddim(
    denoise: Denoise,
    sample: Array,
    schedule: NoiseSchedule,
    steps: int,
    *,
    end: int | None = None,
    callback: Callback | None = None,
) -> Array:
    """The noisy sample from which `sample_ddim` comes (nearly) back to `sample`: the same steps, backwards.

    Each step asks the network about the level that it goes to, as diffusers' DDIMInverseScheduler does.

    Args:
        denoise: the network; called with the timesteps, rising.
        sample: float (B, ...), clean.
        schedule: the noise levels.
        steps: steps over the whole schedule.
        end: stop at the last timestep that is not above this one, where `sample_ddim(..., start=end)` sets out.
        callback: told of every step.

    Raises:
        SettingsError: see `NoiseSchedule.ddim_timesteps`.
    """
    timesteps, stride = schedule.ddim_timesteps(steps, end)[::-1], schedule.stride(steps)
    for index, timestep in enumerate(timesteps.tolist()):
        output = denoise(sample, timestep)
        clean = schedule.predict_clean(output, sample, timestep - stride)
        noise = schedule.predict_noise(output, sample, timestep - stride)
        sample = schedule.add_noise(clean, noise, timestep)
        if callback:
            callback(index, timestep, sample)
    return sample


def sample_dpm_solver(
    denoise: Denoise, sample: Array, schedule: NoiseSchedule, steps: int, *, callback: Callback | None = None
) -> Array:
    """The sample without its noise, after steps of DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2, midpoint form).

    The first step and the last are of first order, as in diffusers' DPMSolverMultistepScheduler.

    Args:
        denoise: the network; called with the timesteps, falling.
        sample: float (B, ...), at the noise level of the first timestep.
        schedule: the noise levels.
        steps: steps over the whole schedule.
        callback: told of every step.

    Raises:
        SettingsError: see `NoiseSchedule.dpm_timesteps`.
    """
    timesteps = schedule.dpm_timesteps(steps)
    schedule = replace(schedule, alphas_cumprod=schedule.alphas_cumprod.clip(min=MIN_ALPHA))
    alpha = np.append(schedule.alphas_cumprod[timesteps], 1.0)
    signal, spread = np.sqrt(alpha), np.sqrt(1 - alpha)
    half_log_snr = np.log(signal[:-1] / spread[:-1])  # λ; infinite at the end, which a step of first order reaches
    before = None
    for index, timestep in enumerate(timesteps.tolist()):
        clean = guess = schedule.predict_clean(denoise(sample, timestep), sample, timestep)
        if before is not None and index < steps - 1:
            past, ahead = np.diff(half_log_snr[index - 1 : index + 2])
            guess = clean + 0.5 * (ahead / past) * (clean - before)
        shrink = spread[index + 1] / spread[index]
        sample = (shrink * sample + (signal[index + 1] - shrink * signal[index]) * guess).astype(sample.dtype)
        before = clean
        if callback:
            callback(index, timestep, sample)
    return sample


def sample_lcm(
    denoise: Denoise,
    sample: Array,
    schedule: NoiseSchedule,
    steps: int,
    *,
    noise: Array,
    callback: Callback | None = None,
) -> Array:
    """The sample without its noise, after steps of a latent consistency model (arXiv 2310.04378, algorithm 3).

    Each step guesses the clean sample, and all but the last add fresh noise to the guess. A network that was not
    distilled works too: it only guesses less well.

    Args:
        denoise: the network; called with the timesteps, falling.
        sample: float (B, ...), at the noise level of the first timestep.
        schedule: the noise levels.
        steps: steps over the whole schedule.
        noise: float (steps − 1, B, ...), standard normal; what is added after each step but the last.
        callback: told of every step.

    Raises:
        SettingsError: see `NoiseSchedule.lcm_timesteps`.
    """
    timesteps = schedule.lcm_timesteps(steps).tolist()
    for index, timestep in enumerate(timesteps):
        clean = schedule.predict_clean(denoise(sample, timestep), sample, timestep)
        reach = np.hypot(LCM_TIMESTEP_SCALE * timestep, LCM_SIGMA)
        keep, take = (LCM_SIGMA / reach) ** 2, LCM_TIMESTEP_SCALE * timestep / reach
        sample = (take * clean + keep * sample).astype(sample.dtype)
        if index < steps - 1:
            sample = schedule.add_noise(sample, noise[index], timesteps[index + 1])
        if callback:
            callback(index, timestep, sample)
    return sample
