"""The one table of samplers. Settings, command line, service, parity and benchmarks take their names from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """One way to sample masks from noise.

    Attributes:
        function: name of a function that is called like `segrefine.runtime.sampler.sample_ddim`.
        module: the module that has it; imported when the sampler is used.
        takes_noise: whether the function adds fresh noise between its steps, and takes it as `noise`.
        scheduler: name of the class of diffusers that does the same. Parity compares the two. None: there is none.
    """

    function: str
    module: str = "segrefine.runtime.sampler"
    takes_noise: bool = False
    scheduler: str | None = None

    def load(self) -> Callable[..., Any]:
        """The function."""
        function: Callable[..., Any] = getattr(import_module(self.module), self.function)
        return function


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(function="sample_ddim", scheduler="DDIMScheduler"),
    "dpm-solver": Sampler(function="sample_dpm_solver", scheduler="DPMSolverMultistepScheduler"),
    "lcm": Sampler(function="sample_lcm", takes_noise=True, scheduler="LCMScheduler"),
}
"""Every sampler, by the name that people know it by."""
