"""Engine options of a user: for running and for building."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from segrefine.engines.engine import EnginePrecision, check_threads, parse_device
from segrefine.errors import SettingsError

AUTO = "auto"
"""Name that stands for the best backend here; the output says which one that is."""

Plugins = Literal["auto", "always", "never"]

MOST_WORKSPACE = 1 << 20
"""Largest scratch memory that can be allowed, MiB: far more than any GPU has."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options for running the engines of a bundle. One object travels to every process that opens them.

    Attributes:
        backend: what runs the graphs: a name in `BACKENDS`, or "auto" for the best one here.
        device: `cpu`, `cuda` or `cuda:N`.
        precision: what the engines compute in. None for the graphs' own.
        threads: CPU threads for one operator. None for all cores.
        resolution: pixels on the longer side of an image as the model sees it. None for what it was trained on.
        low_memory: whether of the large engines only the one in use is loaded, which takes longer. None does so where
            the memory that is free does not hold all of them; only on CPUs.
    """

    backend: str = AUTO
    device: str = "cpu"
    precision: EnginePrecision | None = None
    threads: int | None = None
    resolution: int | None = None
    low_memory: bool | None = None

    def __post_init__(self) -> None:
        """Check each value that can be checked without a bundle.

        Raises:
            BackendError: there is no such device.
            SettingsError: there is no such precision, `threads` is out of range, or `low_memory` is no bool or for a
                GPU.
        """
        kind, _ = parse_device(self.device)
        if self.low_memory not in (None, False, True):
            raise SettingsError(subject="low_memory", expected="true, false or none", got=repr(self.low_memory))
        if self.low_memory and kind != "cpu":
            raise SettingsError(subject="low_memory", expected="the device cpu", got=self.device, hint="leave it out")
        if self.precision not in (None, *get_args(EnginePrecision)):
            raise SettingsError(
                subject="precision", expected=f"one of {', '.join(get_args(EnginePrecision))}", got=repr(self.precision)
            )
        if self.threads is not None:
            check_threads(self.threads)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options for building engines. Each backend takes some of these, see `Backend.build_options`.

    Attributes:
        min_shapes: the smallest sizes that an engine takes, by symbol: batch, height, width, tokens. The default is
            one image size, the model's, and batches as large as the pipelines make them.
        opt_shapes: the sizes that it is tuned to.
        max_shapes: the largest sizes.
        compute_capabilities: the GPUs that an engine runs on, such as ("8.6", "8.9"). Empty for the GPU of this
            machine.
        optimization_level: how long the builder searches, 0 to 5. None for its own choice.
        workspace: scratch memory that an engine may use, MiB. None for the builder's own choice.
        plugins: whether the custom ops are built as plugins. "auto" does so where a plugin has measured faster than
            the ONNX functions; none has so far.
        timing_cache: a file that keeps the builder's measurements for the next build.
        tf32: whether a GPU may round float32 products to TensorFloat-32, which has 10 bits of mantissa.
        version_compatible: whether later minor versions of the library can run the engine. It is larger and can be
            slower.
    """

    min_shapes: Mapping[str, int] | None = None
    opt_shapes: Mapping[str, int] | None = None
    max_shapes: Mapping[str, int] | None = None
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    workspace: int | None = None
    plugins: Plugins = "auto"
    timing_cache: Path | None = None
    tf32: bool = False
    version_compatible: bool = False

    @property
    def changed(self) -> list[str]:
        """The names of the options that differ from their default."""
        return [each.name for each in fields(self) if getattr(self, each.name) != each.default]

    def __post_init__(self) -> None:
        """Check each value by itself.

        Raises:
            SettingsError: a value is out of range, or of another type.
        """
        if isinstance(self.compute_capabilities, str):
            raise SettingsError(
                subject="compute_capabilities", expected="a tuple such as ('8.9',)", got=repr(self.compute_capabilities)
            )
        if self.optimization_level not in (None, *range(6)):
            raise SettingsError(subject="optimization_level", expected="0 to 5", got=self.optimization_level)
        if self.workspace is not None and not 1 <= self.workspace <= MOST_WORKSPACE:
            raise SettingsError(subject="workspace", expected=f"1 to {MOST_WORKSPACE} MiB", got=self.workspace)
        for each in self.compute_capabilities:
            if not isinstance(each, str) or not re.fullmatch(r"\d+\.\d", each):
                raise SettingsError(
                    subject="compute capability", expected="major and minor version, such as '8.9'", got=repr(each)
                )
        if isinstance(self.timing_cache, str):
            raise SettingsError(subject="timing_cache", expected="a Path", got=repr(self.timing_cache))
        if self.plugins not in get_args(Plugins):
            raise SettingsError(
                subject="plugins", expected=f"one of {', '.join(get_args(Plugins))}", got=repr(self.plugins)
            )
