"""ONNX graphs made into engines, and engines run: the only part of segrefine that knows an inference library.

`backends` has the one table. Each backend has a folder; nothing outside of that folder and the table has its name.
"""

from segrefine.engines.backend import Backend
from segrefine.engines.backends import (
    BACKENDS,
    DEFAULT,
    find_backend,
    join_names,
    needs_gpu,
    open_plain_session,
    taking,
    with_precision,
)
from segrefine.engines.build import EngineFile, build_engine
from segrefine.engines.choice import choose_backend
from segrefine.engines.engine import Closing, Engine, EnginePrecision, cut_batch
from segrefine.engines.hardware import usable_cores
from segrefine.engines.load import built_options, check_choice, load_engine, load_engines, peak_memory, served_sizes
from segrefine.engines.options import AUTO, BuildOptions, EngineOptions, Plugins

__all__ = [
    "AUTO",
    "BACKENDS",
    "DEFAULT",
    "Backend",
    "BuildOptions",
    "Closing",
    "Engine",
    "EngineFile",
    "EngineOptions",
    "EnginePrecision",
    "Plugins",
    "build_engine",
    "built_options",
    "check_choice",
    "choose_backend",
    "cut_batch",
    "find_backend",
    "join_names",
    "load_engine",
    "load_engines",
    "needs_gpu",
    "open_plain_session",
    "peak_memory",
    "served_sizes",
    "taking",
    "usable_cores",
    "with_precision",
]
