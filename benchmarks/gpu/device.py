"""The GPU that these benchmarks run on, and how they time it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

import click
import numpy as np
import torch

from benchmarks.report import RESULTS, write_result
from segrefine.engines.cuda import check_gpu
from segrefine.errors import SegrefineError


def require_gpu(name: str, title: str, *, with_torch: bool = True) -> None:
    """End the program where there is no GPU, and say so; a file says so too, unless it holds a table.

    Args:
        name: of the result's files.
        title: of the page.
        with_torch: whether PyTorch must be able to use the GPU.
    """
    if with_torch and torch.cuda.is_available():
        return
    try:
        check_gpu(0)
        if not with_torch:
            return
        problem = "torch was built without CUDA"
    except SegrefineError as error:
        problem = str(error)
    if not (RESULTS / f"{name}.md").exists():
        write_result(name, {"measured": False, "problem": problem}, f"# {title}\n\n**Not measured: {problem}.**")
    click.echo(f"skipped: {problem}")
    sys.exit(0)


def name_of(device: str) -> str:
    """Return the name of the device."""
    return torch.cuda.get_device_name() if device == "cuda" else "the CPU"


def time_in_turns(runs: Mapping[str, Callable[[], object]], device: str, repeats: int) -> dict[str, float]:
    """The median seconds of each, call by call in turns, after ten calls unmeasured."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-10 if device == "cuda" else -1, repeats):
        for name, run in runs.items():
            seconds = _time(run, device)
            if turn >= 0:
                times[name].append(seconds)
    return {name: float(np.median(each)) for name, each in times.items()}


def _time(run: Callable[[], object], device: str) -> float:
    if device != "cuda":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
