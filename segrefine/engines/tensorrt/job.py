"""Request to the process that builds an engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from segrefine.engines.tensorrt.libraries import Library


@dataclass(frozen=True, kw_only=True)
class BuildJob:
    """One engine to build. It goes to the builder's process as JSON, so it has nothing but JSON's types.

    Attributes:
        library: what builds.
        graph: path of the ONNX graph.
        engine: path of the engine to write.
        shapes: the smallest, tuned and largest shape of each input.
        compute_capabilities: major and minor version of each GPU.
        optimization_level: how long the builder searches. None for its own choice.
        workspace: scratch memory, MiB. None for the builder's own choice.
        plugins: whether the custom ops are built as plugins.
        tf32: whether float32 products may be rounded to TensorFloat-32.
        version_compatible: whether later minor versions can run the engine.
        timing_cache: path of a file with the builder's measurements.
    """

    library: Library
    graph: str
    engine: str
    shapes: Mapping[str, Sequence[Sequence[int]]]
    compute_capabilities: Sequence[Sequence[int]] = ()
    optimization_level: int | None = None
    workspace: int | None = None
    plugins: bool = False
    tf32: bool = False
    version_compatible: bool = False
    timing_cache: str | None = None

    def to_json(self) -> str:
        """The job as a JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BuildJob:
        """The job that `to_json` wrote."""
        return cls(**json.loads(text))
