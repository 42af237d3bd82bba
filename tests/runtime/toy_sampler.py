"""A sampler that nobody uses: it believes the first guess of the network, whatever the number of steps.

As a program this file is segrefine with that sampler.
"""

from __future__ import annotations

from segrefine.runtime.sampler import Callback, Denoise
from segrefine.runtime.schedule import Array, NoiseSchedule
from segrefine.samplers import SAMPLERS, Sampler


def sample_at_once(
    denoise: Denoise, sample: Array, schedule: NoiseSchedule, steps: int, *, callback: Callback | None = None
) -> Array:
    """The clean sample that the network implies at the noisiest timestep."""
    timestep = len(schedule.alphas_cumprod) - 1
    clean = schedule.predict_clean(denoise(sample, timestep), sample, timestep)
    if callback:
        callback(0, timestep, clean)
    return clean


TOY = Sampler(function="sample_at_once", module="tests.runtime.toy_sampler")

if __name__ in ("__main__", "__mp_main__"):  # the processes of a batch import this file by the second name
    SAMPLERS["toy"] = TOY

if __name__ == "__main__":
    from segrefine.cli import main

    main()
