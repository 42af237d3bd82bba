"""DDIM sampling and its inversion: plain loops over a network."""

from __future__ import annotations

from collections.abc import Callable

from segrefine.runtime.schedule import Array, NoiseSchedule

Denoise = Callable[[Array, int], Array]
"""`denoise(sample, timestep)`: the network's output, shaped like the sample."""

Callback = Callable[[int, int, Array], None]
"""`callback(step_index, timestep, sample)`, called with the sample that the step gave."""


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
