"""Timing side by side: contestants take turns, call by call, so that what else the machine does falls on all alike."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from segrefine.assets import demo_samples
from segrefine.cli.samples import load_samples
from segrefine.engines import EnginePrecision
from segrefine.export.comparison import ParityScene
from segrefine.export.graph import example_inputs
from segrefine.export.modules import GraphModule
from segrefine.runtime.engine_set import EngineSet

Times = dict[str, list[float]]
PipelineT = TypeVar("PipelineT", bound=EngineSet[Any])
ENGINES: dict[str, tuple[str, EnginePrecision]] = {
    "ONNX Runtime": ("onnxruntime", "fp32"),
    "OpenVINO": ("openvino", "fp32"),
    "OpenVINO bf16": ("openvino", "bf16"),
}
REST = 0.05
"""Seconds."""
COMPONENT_COLUMNS = (
    *("component", "batch", "GFLOP", "eager ms"),
    *(f"{name} {column}" for name in ENGINES for column in ("ms", "ratio", "share")),
)


def open_on_all(
    kind: type[PipelineT], bundle: Path, threads: int, stack: ExitStack, engines: Collection[str] = ENGINES.keys()
) -> dict[str, PipelineT]:
    """A bundle's pipeline on each of `ENGINES`, or on some of them, by name; `stack` closes them."""
    opened: dict[str, PipelineT] = {}
    for name, (backend, precision) in ENGINES.items():
        if name not in engines:
            continue
        opened[name] = kind.from_bundle(bundle, backend=backend, precision=precision, threads=threads)
        stack.callback(opened[name].close)
    return opened


def sample_scenes() -> list[ParityScene]:
    """The twelve shipped scenes."""
    samples = load_samples(demo_samples()).values()
    return [ParityScene(image=each.image, coarse=each.coarse, label=each.label) for each in samples]


def take_turns(contestants: Mapping[str, Callable[[], object]], repeats: int) -> Times:
    """Seconds of each call; everyone runs three times unmeasured, then they take turns, each after a rest.

    Threads of the call before would else still spin for work, on the cores that the next call needs.
    """
    times: Times = {name: [] for name in contestants}
    for turn in range(-3, repeats):
        for name, run in contestants.items():
            time.sleep(REST)
            began = time.perf_counter()
            run()
            if turn >= 0:
                times[name].append(time.perf_counter() - began)
    return times


def time_components(
    contestants: Mapping[str, EngineSet[Any]],
    make_graph: Callable[[str], GraphModule],
    batches: Mapping[str, int],
    repeats: int,
    peak: float,
) -> list[list[str]]:
    """One row for each component: eager PyTorch (attention with the bias written out) beside the engines.

    Args:
        contestants: one bundle's pipelines, by the names in `ENGINES`.
        make_graph: the PyTorch module of a component, by its name.
        batches: batch of a component, where it is not 1.
        repeats: calls of each.
        peak: see `peak_gflops`.
    """
    manifest, rows = next(iter(contestants.values())).bundle.manifest, []
    side = manifest.sample_size
    sizes = {"height": side, "width": side, "pixels": side * side, "tokens": manifest.tokens}
    sizes |= {"image_height": side * manifest.vae_scale_factor, "image_width": side * manifest.vae_scale_factor}
    for name in next(iter(contestants.values())).engines:
        spec = manifest.components[name]
        batch, module = batches.get(name, 1), make_graph(name)
        inputs = example_inputs(module, sizes | {"batch": batch})
        feeds = {tensor.name: value.numpy() for tensor, value in zip(spec.inputs, inputs, strict=True)}
        engines = {each: partial(pipeline.engines[name], feeds) for each, pipeline in contestants.items()}
        with torch.inference_mode():
            with FlopCounterMode(display=False) as counter:
                module(*inputs)
            times = take_turns({"eager": partial(module, *inputs)} | engines, repeats)
        eager, gflop = float(np.median(times["eager"])), counter.get_total_flops() / 1e9
        row = [name, str(batch), f"{gflop:.2f}", f"{1e3 * eager:.2f}"]
        for each in engines:
            seconds = float(np.median(times[each]))
            row += [f"{1e3 * seconds:.2f}", f"{eager / seconds:.2f}", f"{gflop / seconds / peak:.0%}"]
        rows.append(row)
    return rows


def run_command(*arguments: object) -> tuple[float, int]:
    """Seconds that a `segrefine` command takes, and the most memory that it or a process of its had, bytes."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "segrefine.cli", *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))
    return time.perf_counter() - began, 1024 * usage.ru_maxrss


def peak_gflops(side: int = 1536, repeats: int = 8, dtype: torch.dtype = torch.float32) -> float:
    """The best rate of a matrix product on these threads."""
    left, right = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
    seconds = take_turns({"product": lambda: left @ right}, repeats)["product"]
    return 2 * side**3 / min(seconds) / 1e9
