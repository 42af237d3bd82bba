"""What TensorRT engines are built for, and the names of the two libraries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from segrefine.engines.recipe import EngineRecipe
from segrefine.errors import SettingsError

if TYPE_CHECKING:
    from typing import Self

Library = Literal["tensorrt", "tensorrt-rtx"]
Plugins = Literal["auto", "always", "never"]
LIBRARIES: Mapping[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Backend → the module of its library."""

MOST_WORKSPACE = 1 << 20
"""The most scratch memory that can be allowed, MiB: far more than any GPU has."""


@dataclass(frozen=True, kw_only=True)
class TensorRtOptions:
    """What engines are built for.

    Attributes:
        min_shapes: the smallest sizes that an engine takes, by symbol, see `profile.SYMBOLS`. The default is one image
            size, the model's, and batches as large as the pipelines make them.
        opt_shapes: the sizes that it is tuned to.
        max_shapes: the largest sizes.
        compute_capabilities: the GPUs that an engine of TensorRT-RTX runs on, such as ("8.6", "8.9"). Empty for the
            GPU of this machine.
        optimization_level: how long the builder searches, 0 to 5. None for its own choice.
        workspace: scratch memory that an engine may use, MiB. None for its own choice.
        plugins: whether TensorRT builds the custom ops as plugins. "auto" does so where a plugin has measured faster
            than the ONNX functions; none has so far.
        timing_cache: a file that keeps the builder's measurements for the next build.
        tf32: whether float32 products may be rounded to TensorFloat-32, which has 10 bits of mantissa. ONNX Runtime on
            a GPU takes this option too.
        version_compatible: whether later minor versions of TensorRT, and its lean runtime, can run the engine. It is
            larger and can be slower. TensorRT-RTX has no such option.
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

    @classmethod
    def of(cls, recipe: EngineRecipe) -> Self:
        """The options that build a recipe's TensorRT engine again."""
        smallest, tuned, largest = recipe.limits
        known = {each.name for each in fields(cls)}
        given = {name: value for name, value in recipe.options.items() if value is not None and name in known}
        rtx = recipe.backend == "tensorrt-rtx"
        return cls(
            min_shapes=smallest,
            opt_shapes=tuned,
            max_shapes=largest,
            compute_capabilities=recipe.compute_capabilities if rtx else (),
            **given,
        )

    def __post_init__(self) -> None:
        """Raises SettingsError where a value is none of those that there are."""
        if isinstance(self.compute_capabilities, str):
            raise SettingsError(f"compute_capabilities is {self.compute_capabilities!r}, expected a tuple")
        if self.optimization_level not in (None, *range(6)):
            raise SettingsError(f"optimization_level is {self.optimization_level}, expected 0 to 5")
        if self.workspace is not None and not 1 <= self.workspace <= MOST_WORKSPACE:
            raise SettingsError(f"workspace is {self.workspace} MiB, expected 1 to {MOST_WORKSPACE}")
        for each in self.compute_capabilities:
            if not isinstance(each, str) or not re.fullmatch(r"\d+\.\d", each):
                raise SettingsError(f"compute capability {each!r}: expected major and minor version, such as '8.9'")
        if isinstance(self.timing_cache, str):
            raise SettingsError(f"timing_cache is {self.timing_cache!r}, expected a Path")
        if self.plugins not in get_args(Plugins):
            raise SettingsError(f"plugins is {self.plugins!r}, expected one of {', '.join(get_args(Plugins))}")
